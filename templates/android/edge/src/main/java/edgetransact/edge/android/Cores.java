package edgetransact.edge.android;

import android.util.Log;
import java.util.List;

/** The cores that an engine's thread runs on, and the pool of threads that TVM makes for it. */
final class Cores {
    static {
        System.loadLibrary("edge_programs");
    }

    private Cores() {}

    /** Runs the calling thread on these cores alone, and one thread of its pool for each. The pool must not be there yet. */
    static void use(List<Integer> cores) {
        int[] numbers = new int[cores.size()];
        for (int index = 0; index < numbers.length; index++) {
            numbers[index] = cores.get(index);
        }
        try {
            use(numbers);
        } catch (RuntimeException error) {
            Log.e("Cores", cores.toString(), error); // slower, but it runs
        }
    }

    private static native void use(int[] cores);
}
