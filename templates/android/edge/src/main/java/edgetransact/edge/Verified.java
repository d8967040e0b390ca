package edgetransact.edge;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;

/** Remembers that a model's files were compared with their sha256, so that a start doesn't read them all again. */
final class Verified {
    /** The coarsest time of a file system for a phone's storage, FAT: a change within it can leave the same time. */
    private static final long COARSEST_TIME_MS = 2000;

    private final Path file;

    /**
     * @param file where it is remembered; not where others can write
     */
    Verified(Path file) {
        this.file = file;
    }

    /** Whether this model was verified in this directory, and no file has changed since. */
    boolean holds(Model model, Path directory) throws IOException {
        if (!Files.exists(file)) {
            return false;
        }
        String known = new String(Files.readAllBytes(file), StandardCharsets.UTF_8);
        try {
            return known.equals(describe(model, directory));
        } catch (IOException missing) {
            return false;
        }
    }

    /**
     * Whether all files were last changed so long before a moment that whatever changes after it changes a file's time.
     *
     * @param moment in milliseconds, as {@link System#currentTimeMillis} tells them
     */
    static boolean settled(Model model, Path directory, long moment) throws IOException {
        for (Model.File each : model.files()) {
            long changed = Files.getLastModifiedTime(directory.resolve(each.path())).toMillis();
            if (changed > moment - COARSEST_TIME_MS) {
                return false;
            }
        }
        return true;
    }

    /** Remembers it. */
    void remember(Model model, Path directory) throws IOException {
        Path fresh = file.resolveSibling(file.getFileName() + ".part");
        Files.write(fresh, describe(model, directory).getBytes(StandardCharsets.UTF_8));
        Files.move(fresh, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    }

    /** The model's digest, and each file with its size and its time. */
    private static String describe(Model model, Path directory) throws IOException {
        StringBuilder lines = new StringBuilder(model.digest()).append('\n').append(directory).append('\n');
        for (Model.File each : model.files()) {
            Path path = directory.resolve(each.path());
            lines.append(each.path())
                    .append(' ')
                    .append(Files.size(path))
                    .append(' ')
                    .append(Files.getLastModifiedTime(path).toMillis())
                    .append('\n');
        }
        return lines.toString();
    }
}
