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

    public static void runUntil(BooleanSupplier done) throws InterruptedException {
        while (!done.getAsBoolean()) {
            Runnable next = QUEUE.poll(60, TimeUnit.SECONDS);
            if (next == null) {
                throw new AssertionError("nothing happens any more");
            }
            next.run();
        }
    }
}
