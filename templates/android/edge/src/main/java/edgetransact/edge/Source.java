package edgetransact.edge;

import java.io.IOException;
import java.io.InputStream;

/** The files that travel inside the app. */
@FunctionalInterface
public interface Source {
    /**
     * Opens a file.
     *
     * @param path {@code ID/FILE}, below the folder {@code edge} of the assets
     * @throws IOException it is not there, or can't be read
     */
    InputStream open(String path) throws IOException;
}
