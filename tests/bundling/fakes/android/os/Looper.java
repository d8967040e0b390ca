package android.os;

import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.BooleanSupplier;

/** A main thread: whoever calls {@link #runUntil}. */
public final class Looper {
    static final LinkedBlockingQueue<Runnable> QUEUE = new LinkedBlockingQueue<>();

    public static Looper getMainLooper() {
        return null;
    }

    /** Runs what was posted until something is so; what runs on other threads may make it so too. */
    public static void runUntil(BooleanSupplier done) throws InterruptedException {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
        while (!done.getAsBoolean()) {
            Runnable next = QUEUE.poll(5, TimeUnit.MILLISECONDS);
            if (next != null) {
                next.run();
            } else if (System.nanoTime() > end) {
                throw new AssertionError("nothing happens any more");
            }
        }
    }
}
