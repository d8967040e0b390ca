package edgetransact.edge.android;

import android.app.ActivityManager;
import android.app.ApplicationExitInfo;
import android.content.Context;
import android.os.Build;
import java.util.Collections;
import java.util.List;

/** Says how a process ended of which Android tells a reason, a status and an importance, at an API level. */
public final class PastProcessesMain {
    private PastProcessesMain() {}

    /** @param arguments the level, then the reason, the status and the importance of each process */
    public static void main(String[] arguments) {
        Build.VERSION.SDK_INT = Integer.parseInt(arguments[0]);
        for (int index = 1; index < arguments.length; index++) {
            System.out.println(PastProcesses.ending(phone(arguments[index].split(",")), 7));
        }
        System.out.println(PastProcesses.ending(phone(), 7));
    }

    private static Context phone(String... end) {
        return new Context() {
            @Override
            @SuppressWarnings("unchecked")
            public <T> T getSystemService(Class<T> service) {
                return (T) new ActivityManager() {
                    @Override
                    public List<ApplicationExitInfo> getHistoricalProcessExitReasons(String name, int process, int most) {
                        return end.length == 0 ? Collections.emptyList() : Collections.singletonList(info(end));
                    }
                };
            }
        };
    }

    private static ApplicationExitInfo info(String... end) {
        return new ApplicationExitInfo() {
            @Override
            public int getReason() {
                return Integer.parseInt(end[0]);
            }

            @Override
            public int getStatus() {
                return Integer.parseInt(end[1]);
            }

            @Override
            public int getImportance() {
                return Integer.parseInt(end[2]);
            }
        };
    }
}
