package edgetransact.edge;

import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;

/** The sha256 of bytes that are read or copied, block by block, with progress. */
final class Sha256 {
    private static final int BLOCK = 1 << 18;

    /** Hears of each block. */
    interface Counter {
        void add(long bytes);
    }

    private final MessageDigest digest;
    private final Counter counter;
    private final byte[] block = new byte[BLOCK];

    Sha256(Counter counter) {
        this.counter = counter;
        try {
            digest = MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new AssertionError(error);
        }
    }

    /** Reads a stream to its end. */
    void read(InputStream from) throws IOException, InterruptedException {
        copy(from, null);
    }

    /** Reads a stream to its end and writes it. */
    void copy(InputStream from, OutputStream to) throws IOException, InterruptedException {
        for (int count = from.read(block); count >= 0; count = from.read(block)) {
            if (Thread.interrupted()) {
                throw new InterruptedException();
            }
            digest.update(block, 0, count);
            if (to != null) {
                to.write(block, 0, count);
            }
            counter.add(count);
        }
    }

    /** The sha256 of all bytes so far, as 64 hexadecimal digits. */
    String hex() {
        StringBuilder hex = new StringBuilder(64);
        for (byte each : digest.digest()) {
            hex.append(Character.forDigit(each >> 4 & 15, 16)).append(Character.forDigit(each & 15, 16));
        }
        return hex.toString();
    }
}
