package edgetransact.edge;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;

/** Remembers that a model's files were compared with their sha256, so that a start doesn't read them all again. */
final class Verified {
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
