package edgetransact.edge;

import java.io.Closeable;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.URL;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * The files in a folder of a server. A stream goes on in a new connection where the last one broke.
 *
 * <p>There is no {@code If-Range}: a file's sha256 tells whether its parts belong together, and the servers behind one
 * name may give the same file several entity tags.
 */
final class Download implements Closeable {
    /** The server or the network failed. The message is for people. */
    static final class Failed extends IOException {
        private static final long serialVersionUID = 1;

        private Failed(URL url, String reason) {
            super(url + ": " + reason);
        }
    }

    /** How many connections a file may take in one go, and how many of them may bring nothing in a row. */
    private static final int CONNECTIONS = 20;

    private static final int BARREN = 2;
    private static final int REDIRECTS = 5;
    private static final int CONNECT_MS = 20_000;
    private static final int READ_MS = 30_000;

    private final String folder;

    /** Reads from the server. Nothing ends a read that waits for one, so an interrupted thread leaves it to this. */
    private final ExecutorService network = Executors.newSingleThreadExecutor(task -> {
        Thread thread = new Thread(task, "edge-download");
        thread.setDaemon(true);
        return thread;
    });

    /**
     * @param folder the folder's URL
     */
    Download(String folder) {
        this.folder = folder;
    }

    /** The bytes of a file from an offset on. Reading throws {@link Failed}; another IOException if interrupted. */
    InputStream open(Model.File file, long offset) throws IOException {
        return new Body(new URL(folder + "/" + file.path()), file.bytes(), offset);
    }

    @Override
    public void close() {
        network.shutdown();
    }

    /** What is still to come of a file. Methods other than {@code read} and {@code close} run on the network's thread. */
    private final class Body extends InputStream {
        private final URL url;
        private final long size;
        private final byte[] block = new byte[1 << 16];
        private long at;
        private int opened;
        private int barren;
        private HttpURLConnection connection;
        private InputStream stream;
        private volatile boolean closed;

        private Body(URL url, long size, long at) {
            this.url = url;
            this.size = size;
            this.at = at;
        }

        @Override
        public int read() throws IOException {
            byte[] one = new byte[1];
            return read(one, 0, 1) < 0 ? -1 : one[0] & 255;
        }

        @Override
        public int read(byte[] to, int start, int most) throws IOException {
            if (at == size) {
                return -1;
            }
            try {
                int count = network.submit(() -> next(most)).get();
                System.arraycopy(block, 0, to, start, count);
                at += count;
                return count;
            } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
                throw new IOException(error);
            } catch (ExecutionException error) {
                Throwable cause = error.getCause();
                // Android throws a SecurityException without the permission.
                throw cause instanceof Failed ? (Failed) cause : new Failed(url, cause.toString());
            }
        }

        @Override
        public void close() {
            closed = true;
            network.execute(this::hangUp);
        }

        /** Reads some bytes into the block. */
        private int next(int most) throws IOException {
            while (true) {
                try {
                    if (stream == null) {
                        opened++;
                        barren++;
                        skip(at, connect());
                    }
                    int count = stream.read(block, 0, (int) Math.min(Math.min(most, block.length), size - at));
                    if (count > 0) {
                        barren = 0;
                        return count;
                    }
                    throw new EOFException("it ended after " + at + " of " + size + " bytes");
                } catch (Failed error) {
                    throw error;
                } catch (IOException error) {
                    hangUp();
                    if (closed || barren == BARREN || opened == CONNECTIONS) {
                        throw new Failed(url, String.valueOf(error.getMessage()));
                    }
                }
            }
        }

        /** Asks for the rest of the file; returns at which byte the answer begins. */
        private long connect() throws IOException {
            URL there = url;
            for (int hop = 0; hop <= REDIRECTS; hop++) {
                connection = (HttpURLConnection) there.openConnection();
                connection.setInstanceFollowRedirects(false);
                connection.setConnectTimeout(CONNECT_MS);
                connection.setReadTimeout(READ_MS);
                // Otherwise Android asks for gzip, unpacks it, and hides how long the answer is.
                connection.setRequestProperty("Accept-Encoding", "identity");
                if (at > 0) {
                    connection.setRequestProperty("Range", "bytes=" + at + "-");
                }
                int status = connection.getResponseCode();
                String location = connection.getHeaderField("Location");
                if (status / 100 != 3 || location == null) {
                    long from = begins(status);
                    stream = connection.getInputStream();
                    return from;
                }
                hangUp();
                there = new URL(there, location);
                if (!there.getProtocol().equals("https")) {
                    throw new Failed(url, "it redirects to " + there);
                }
            }
            throw new Failed(url, "it redirects more than " + REDIRECTS + " times");
        }

        /** At which byte an answer begins that has the file's size. */
        private long begins(int status) throws IOException {
            if (status == HttpURLConnection.HTTP_PARTIAL) {
                String range = connection.getHeaderField("Content-Range");
                String wanted = "bytes " + at + "-" + (size - 1) + "/";
                if (at == 0 || range == null || !range.startsWith(wanted)) {
                    throw new Failed(url, "it has " + range + " instead of " + wanted);
                }
                return at;
            }
            if (status < 0 || status >= 500) {
                throw new IOException("HTTP " + status);
            }
            if (status != HttpURLConnection.HTTP_OK) {
                throw new Failed(url, "HTTP " + status);
            }
            long length = connection.getContentLengthLong();
            if (length >= 0 && length != size) {
                throw new Failed(url, "it has " + length + " bytes instead of " + size);
            }
            return 0;
        }

        /** Reads what is there already, of a server that doesn't know ranges. */
        private void skip(long wanted, long from) throws IOException {
            for (long left = wanted - from; left > 0; ) {
                int count = stream.read(block, 0, (int) Math.min(block.length, left));
                if (count < 0 || closed) {
                    throw new EOFException("it ended after " + (wanted - left) + " of " + size + " bytes");
                }
                left -= count;
            }
        }

        private void hangUp() {
            stream = null;
            if (connection != null) {
                connection.disconnect();
                connection = null;
            }
        }
    }
}
