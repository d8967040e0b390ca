package edgetransact.edge;

import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.UUID;

/**
 * Remembers starts that failed: with which library a GPU's driver did, and for which model memory didn't suffice. A
 * start is marked on disk before anything is compiled or loaded, and the mark goes after the first answer: one that is
 * found by a later process belongs to a start that ended the app. So is the question whether the phone has OpenCL, which
 * loads the driver.
 */
public final class Starts {
    /** How processes of the app ended. */
    public interface Endings {
        /** How the one with this id did; {@code CRASHED} if nobody knows. */
        Ending of(int process);
    }

    /** Tells this process from an earlier one with the same id. */
    private static final UUID RUN = UUID.randomUUID();

    private static final String FAILED = "failed";
    private static final String ENDED_APP = "ended the app";
    private static final String LACKED_MEMORY = "lacked memory";

    private final Path directory;
    private final String driver;
    /** What the mark of a start in this process says. */
    private final String own;
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
        own = process + " " + RUN;
        this.endings = endings;
    }

    /** Whether the driver failed with the model's library for the GPU, or ended the app. */
    public boolean failed(Model model) {
        return endedApp(model) || FAILED.equals(verdict(model, Device.OPENCL));
    }

    /** Whether the driver ended the app, when it was loaded or with the model's library for the GPU. */
    public boolean endedApp(Model model) {
        return ENDED_APP.equals(verdict(model, Device.OPENCL))
                || (model.library(Device.OPENCL) != null && ENDED_APP.equals(verdict(driverMark())));
    }

    /**
     * Whether Android ended the app for want of memory when it loaded the model's library for a device last. The
     * library for another device may fit all the same.
     */
    public boolean lackedMemory(Model model, Device device) {
        return LACKED_MEMORY.equals(verdict(model, device));
    }

    /** Gives the model's library for the GPU another try, at the next start. */
    public void forget(Model model) {
        if (model.library(Device.OPENCL) != null) {
            clear(mark(model.library(Device.OPENCL), Device.OPENCL));
            clear(driverMark());
        }
    }

    /** Whether the phone has OpenCL. A driver that ends the app when it is loaded isn't asked again. */
    boolean openCl(Phone phone) {
        write(driverMark(), own);
        try {
            return phone.openCl();
        } finally {
            clear(driverMark());
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
        write(mark(choice.library(), choice.device()), own);
    }

    /** The start went well, or its end says nothing about the driver. */
    void clear(Choice choice) {
        clear(mark(choice.library(), choice.device()));
    }

    /** What is remembered; null if that is nothing, or this process's start. */
    private String verdict(Model model, Device device) {
        String library = model.library(device);
        return library == null ? null : verdict(mark(library, device));
    }

    private String verdict(Path mark) {
        if (!Files.exists(mark)) {
            return null;
        }
        String text;
        try {
            text = new String(Files.readAllBytes(mark), StandardCharsets.UTF_8);
        } catch (IOException error) {
            return FAILED;
        }
        if (text.equals(own)) {
            return null;
        }
        Ending ending = text.matches("\\d{1,9} .*") ? endings.of(Integer.parseInt(text.split(" ")[0])) : null;
        if (ending == Ending.OTHERWISE) {
            clear(mark);
            return null;
        }
        if (ending != null) {
            text = ending == Ending.LACKED_MEMORY ? LACKED_MEMORY : ENDED_APP;
            write(mark, text); // Android forgets how processes ended
        }
        return text.equals(LACKED_MEMORY) || text.equals(ENDED_APP) ? text : FAILED;
    }

    private void write(Path mark, String text) {
        try {
            Files.createDirectories(directory);
            try (FileOutputStream file = new FileOutputStream(mark.toFile())) {
                file.write(text.getBytes(StandardCharsets.UTF_8));
                file.getFD().sync(); // a driver may take the whole phone down
            }
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

    private Path driverMark() {
        return directory.resolve("opencl." + driver);
    }

    private Path mark(String library, Device device) {
        return directory.resolve(library + '.' + device.target() + '.' + driver);
    }
}
