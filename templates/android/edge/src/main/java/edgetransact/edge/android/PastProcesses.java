package edgetransact.edge.android;

import android.annotation.TargetApi;
import android.app.ActivityManager;
import android.app.ApplicationExitInfo;
import android.content.Context;
import android.os.Build;
import edgetransact.edge.Ending;
import java.util.List;

/** Asks Android how earlier processes of the app ended, which it tells from Android 11 on. */
final class PastProcesses {
    /** Apps that can be seen have this importance or a smaller number. */
    private static final int VISIBLE = ActivityManager.RunningAppProcessInfo.IMPORTANCE_VISIBLE;

    private static final int SIGKILL = 9;

    private PastProcesses() {}

    /** How a process ended. */
    static Ending ending(Context context, int process) {
        return Build.VERSION.SDK_INT >= Build.VERSION_CODES.R ? known(context, process) : Ending.CRASHED;
    }

    @TargetApi(Build.VERSION_CODES.R)
    private static Ending known(Context context, int process) {
        ActivityManager manager = context.getSystemService(ActivityManager.class);
        List<ApplicationExitInfo> ends = manager.getHistoricalProcessExitReasons(null, process, 1);
        if (ends.isEmpty()) {
            return Ending.CRASHED;
        }
        ApplicationExitInfo end = ends.get(0);
        int reason = end.getReason();
        // Where Android can't tell, an end for want of memory is a SIGKILL; so is that of an app that is swiped away.
        boolean killed = reason == ApplicationExitInfo.REASON_SIGNALED && end.getStatus() == SIGKILL;
        if (reason == ApplicationExitInfo.REASON_LOW_MEMORY
                || (killed && !ActivityManager.isLowMemoryKillReportSupported())) {
            // Apps that nobody sees are ended all the time.
            return end.getImportance() <= VISIBLE ? Ending.LACKED_MEMORY : Ending.OTHERWISE;
        }
        boolean own = reason == ApplicationExitInfo.REASON_CRASH_NATIVE
                || reason == ApplicationExitInfo.REASON_CRASH
                || reason == ApplicationExitInfo.REASON_ANR
                || reason == ApplicationExitInfo.REASON_EXIT_SELF
                || reason == ApplicationExitInfo.REASON_UNKNOWN
                || (reason == ApplicationExitInfo.REASON_SIGNALED && !killed);
        return own ? Ending.CRASHED : Ending.OTHERWISE;
    }
}
