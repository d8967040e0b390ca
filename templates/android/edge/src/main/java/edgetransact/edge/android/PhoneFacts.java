package edgetransact.edge.android;

import android.annotation.TargetApi;
import android.app.ActivityManager;
import android.content.Context;
import android.os.Build;
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
        String chip = Build.VERSION.SDK_INT >= Build.VERSION_CODES.S ? chip() : Build.UNKNOWN;
        return new Phone(PhoneFacts::hasOpenCl, Math.max(0, memory.availMem - memory.threshold), chip);
    }

    @TargetApi(Build.VERSION_CODES.S)
    private static String chip() {
        return Build.SOC_MODEL;
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
