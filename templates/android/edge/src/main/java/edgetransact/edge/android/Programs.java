package edgetransact.edge.android;

import android.content.Context;
import android.content.pm.PackageManager.NameNotFoundException;
import android.os.Build;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.util.UUID;

/**
 * Keeps compiled OpenCL programs between starts: a phone takes up to a minute to compile a model's.
 *
 * <p>Programs are good for one build of the app on one build of the system, so both are part of the file's name. They
 * stay out of backups.
 */
final class Programs {
    static {
        System.loadLibrary("edge_programs");
    }

    private final File directory;
    private final String build;

    Programs(Context context) {
        directory = new File(context.getNoBackupFilesDir(), "programs");
        build = UUID.nameUUIDFromBytes((Build.FINGERPRINT + ' ' + installed(context)).getBytes(StandardCharsets.UTF_8))
                .toString();
    }

    /**
     * Makes a library's programs ready in this process, before the engine loads it. Blocks while they are compiled, if
     * no earlier start kept them.
     *
     * @param library the library's name, as in {@code system://NAME}
     * @throws RuntimeException OpenCL can't be used, or the driver refuses what was kept; that is then removed
     */
    void ready(String library) {
        File kept = new File(directory, library + '.' + build);
        if (!kept.exists()) {
            directory.mkdirs();
            removeStale();
        }
        restoreOrBuild(library.replace('-', '_') + '_', kept.getPath());
    }

    /** @param prefix the prefix of the library's symbols */
    private static native void restoreOrBuild(String prefix, String path);

    private void removeStale() {
        File[] files = directory.listFiles((parent, name) -> !name.endsWith('.' + build));
        for (File file : files == null ? new File[0] : files) {
            file.delete();
        }
    }

    private static long installed(Context context) {
        try {
            return context.getPackageManager().getPackageInfo(context.getPackageName(), 0).lastUpdateTime;
        } catch (NameNotFoundException error) {
            throw new IllegalStateException(error);
        }
    }
}
