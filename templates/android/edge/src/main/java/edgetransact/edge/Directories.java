package edgetransact.edge;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** Directories and what is in them. */
final class Directories {
    private Directories() {}

    static List<Path> list(Path directory) throws IOException {
        try (Stream<Path> children = Files.list(directory)) {
            return children.collect(Collectors.toList());
        }
    }

    /** Deletes a file, a link or a directory with all that is in it, if it is there. Links are not followed. */
    static void delete(Path path) throws IOException {
        if (Files.isDirectory(path, LinkOption.NOFOLLOW_LINKS)) {
            for (Path child : list(path)) {
                delete(child);
            }
        }
        Files.deleteIfExists(path);
    }
}
