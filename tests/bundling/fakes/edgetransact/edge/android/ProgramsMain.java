package edgetransact.edge.android;

import android.content.Context;
import android.content.pm.PackageInfo;
import android.content.pm.PackageManager;
import java.io.File;

/** Starts {@link Programs} as an app does that was installed at a certain time. */
public final class ProgramsMain {
    private ProgramsMain() {}

    /** @param arguments a library's file and name, the directory of the app's files, and the time */
    public static void main(String[] arguments) {
        System.load(arguments[0]);
        new Programs(new App(new File(arguments[2]), Long.parseLong(arguments[3]))).ready(arguments[1]);
    }

    private static final class App extends Context {
        private final File directory;
        private final PackageInfo info = new PackageInfo();

        private App(File directory, long installed) {
            this.directory = directory;
            info.lastUpdateTime = installed;
        }

        @Override
        public File getNoBackupFilesDir() {
            return directory;
        }

        @Override
        public String getPackageName() {
            return "org.example.chat";
        }

        @Override
        public PackageManager getPackageManager() {
            return new PackageManager() {
                @Override
                public PackageInfo getPackageInfo(String name, int flags) {
                    return info;
                }
            };
        }
    }
}
