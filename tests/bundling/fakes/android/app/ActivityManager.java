package android.app;

import java.util.List;

/** Of a phone that can't tell an end for want of memory from others. */
public abstract class ActivityManager {
    public static final class MemoryInfo {
        public long availMem;
        public long threshold;
    }

    public static boolean isLowMemoryKillReportSupported() {
        return false;
    }

    public void getMemoryInfo(MemoryInfo info) {}

    public List<ApplicationExitInfo> getHistoricalProcessExitReasons(String name, int process, int most) {
        throw new AssertionError(name);
    }
}
