package edgetransact.edge.android;

import android.app.ActivityManager;
import android.content.Context;
import edgetransact.edge.Phone;

/** Asks Android what {@link Phone} holds. */
public final class PhoneFacts {
    /** The names by which TVM opens OpenCL. */
    private static final String[] OPENCL = {"OpenCL", "OpenCL-pixel"};

    private PhoneFacts() {}

    /** The phone as it is now. */
    public static Phone now(Context context) {
        ActivityManager.MemoryInfo memory = new ActivityManager.MemoryInfo();
        context.getSystemService(ActivityManager.class).getMemoryInfo(memory);
        // Below the threshold, Android ends apps.
        return new Phone(hasOpenCl(), Math.max(0, memory.availMem - memory.threshold));
    }

    private static boolean hasOpenCl() {
        for (String library : OPENCL) {
            try {
                System.loadLibrary(library);
                return true;
            } catch (UnsatisfiedLinkError error) {
                // The next one, then.
            }
        }
        return false;
    }
}
