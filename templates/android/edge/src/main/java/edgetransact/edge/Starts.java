package edgetransact.edge;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.UUID;

/**
 * Remembers starts that failed: with which library a GPU's driver did, and for which model memory didn't suffice. A
 * start is marked on disk before anything is compiled or loaded, and the mark goes after the first answer: one that is
 * found by a later process belongs to a start that ended the app.
 */
public final class Starts {
    /** How processes of the app ended. */
    public interface Endings {
        /** How the one with this id did; {@code CRASHED} if nobody knows. */
        Ending of(int process);
    }

    private static final String FAILED = "failed";
    private static final String LACKED_MEMORY = "lacked memory";

    private final Path directory;
    private final String driver;
    private final String process;
    private final Endings endings;

    /**
     * @param directory where marks are kept; nobody else writes there
     * @param driver tells a driver from its other versions: a mark counts for this one alone
     * @param process the id of this process
     * @param endings how earlier ones ended
     */
    public Starts(Path directory, String driver, int process, Endings endings) {
        this.directory = directory;
        this.driver = UUID.nameUUIDFromBytes(driver.getBytes(StandardCharsets.UTF_8)).toString();
        this.process = String.valueOf(process);
        this.endings = endings;
    }

    /** Whether the driver failed with the model's library for a device. */
    public boolean failed(Model model, Device device) {
        return FAILED.equals(verdict(model, device));
    }

    /** Whether Android ended the app for want of memory while it loaded the model, and nothing has loaded it since. */
    public boolean lackedMemory(Model model) {
        for (Device device : Device.values()) {
            if (LACKED_MEMORY.equals(verdict(model, device))) {
                return true;
            }
        }
        return false;
    }

    /** Gives the model's library for the GPU another try, at the next start. */
    public void forget(Model model) {
        if (model.library(Device.OPENCL) != null) {
            clear(mark(model.library(Device.OPENCL), Device.OPENCL));
        }
    }

    /** Remembers that the engine failed. The CPU needs no driver, and nothing to give way to. */
    void fail(Choice choice) {
        if (choice.device() == Device.OPENCL) {
            write(mark(choice.library(), choice.device()), FAILED);
        } else {
            clear(choice);
        }
    }

    /** Marks a start. */
    void mark(Choice choice) {
        write(mark(choice.library(), choice.device()), process);
    }

    /** The start went well, or its end says nothing about the driver. */
    void clear(Choice choice) {
        clear(mark(choice.library(), choice.device()));
    }

    /** What is remembered; null if that is nothing, or this process's start. */
    private String verdict(Model model, Device device) {
        String library = model.library(device);
        Path mark = library == null ? null : mark(library, device);
        if (mark == null || !Files.exists(mark)) {
            return null;
        }
        String text;
        try {
            text = new String(Files.readAllBytes(mark), StandardCharsets.UTF_8);
        } catch (IOException error) {
            return FAILED;
        }
        if (text.equals(process)) {
            return null;
        }
        Ending ending = text.matches("\\d{1,9}") ? endings.of(Integer.parseInt(text)) : null;
        if (ending == Ending.OTHERWISE) {
            clear(mark);
            return null;
        }
        if (ending != null) {
            text = ending == Ending.LACKED_MEMORY ? LACKED_MEMORY : FAILED;
            write(mark, text); // Android forgets how processes ended
        }
        return text.equals(LACKED_MEMORY) ? text : FAILED;
    }

    private void write(Path mark, String text) {
        try {
            Files.createDirectories(directory);
            Files.write(mark, text.getBytes(StandardCharsets.UTF_8));
        } catch (IOException full) {
            // Without a mark, the same is tried again: no reason not to start now.
        }
    }

    private static void clear(Path mark) {
        try {
            Files.deleteIfExists(mark);
        } catch (IOException error) {
            // The CPU it is, then, until the driver changes.
        }
    }

    private Path mark(String library, Device device) {
        return directory.resolve(library + '.' + device.target() + '.' + driver);
    }
}
