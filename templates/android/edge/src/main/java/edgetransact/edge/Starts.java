package edgetransact.edge;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.UUID;

/**
 * Remembers which libraries a GPU's driver failed with. A start is marked on disk before anything is compiled or
 * loaded, and the mark goes after the first answer: one that is found later belongs to a start that failed, or ended
 * the app.
 */
public final class Starts {
    private final Path directory;
    private final String driver;

    /**
     * @param directory where marks are kept; nobody else writes there
     * @param driver tells a driver from its other versions: a mark counts for this one alone
     */
    public Starts(Path directory, String driver) {
        this.directory = directory;
        this.driver = UUID.nameUUIDFromBytes(driver.getBytes(StandardCharsets.UTF_8)).toString();
    }

    /** Whether the driver failed with the model's library for a device. */
    public boolean failed(Model model, Device device) {
        String library = model.library(device);
        return library != null && Files.exists(mark(library, device));
    }

    /** Gives the model's library for the GPU another try, at the next start. */
    public void forget(Model model) {
        if (model.library(Device.OPENCL) != null) {
            clear(Device.OPENCL, model.library(Device.OPENCL));
        }
    }

    /** Marks a start of the GPU, or that its engine failed later. The CPU needs no driver, and nothing to give way to. */
    public void mark(Choice choice) {
        if (choice.device() == Device.OPENCL) {
            try {
                Files.createDirectories(directory);
                Files.write(mark(choice.library(), choice.device()), new byte[0]);
            } catch (IOException full) {
                // Without a mark, the GPU is tried again: no reason not to start now.
            }
        }
    }

    /** The start went well, or its end says nothing about the driver. */
    void clear(Choice choice) {
        clear(choice.device(), choice.library());
    }

    private void clear(Device device, String library) {
        try {
            Files.deleteIfExists(mark(library, device));
        } catch (IOException error) {
            // The CPU it is, then, until the driver changes.
        }
    }

    private Path mark(String library, Device device) {
        return directory.resolve(library + '.' + device.target() + '.' + driver);
    }
}
