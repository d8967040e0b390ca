package edgetransact.edge.android;

import android.content.Context;
import android.content.res.AssetManager;
import android.os.Build;
import android.os.Process;
import edgetransact.edge.EdgeException;
import edgetransact.edge.Models;
import edgetransact.edge.Source;
import edgetransact.edge.Starts;
import edgetransact.edge.WeightStore;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** Where the app has its models, and where {@code edge-transact} puts and finds files. */
public final class AppFiles {
    private static final String ASSETS = "edge/";
    private static final String PLAY = "com.google.android.play.core.assetpacks.";

    private final Context context;

    public AppFiles(Context context) {
        this.context = context.getApplicationContext();
    }

    /**
     * The app's models, from its assets: those of {@code edge/models.json}, and of each {@code edge/ID/models.json} that
     * a module with a model brings.
     *
     * @throws EdgeException {@code MODELS_INVALID}
     */
    public Models models() throws EdgeException {
        List<String> texts = new ArrayList<>();
        addModels("", texts);
        try {
            String[] names = context.getAssets().list("edge");
            for (String name : names == null ? new String[0] : names) {
                addModels(name + "/", texts);
            }
        } catch (IOException error) {
            throw EdgeException.unexpected(error);
        }
        return Models.read(texts);
    }

    private void addModels(String folder, List<String> texts) {
        try (InputStream file = assets().open(folder + "models.json")) {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            byte[] buffer = new byte[8192];
            for (int read = file.read(buffer); read >= 0; read = file.read(buffer)) {
                bytes.write(buffer, 0, read);
            }
            texts.add(new String(bytes.toByteArray(), StandardCharsets.UTF_8));
        } catch (IOException none) {
            // Each of them may be missing, but not all.
        }
    }

    /** The weights: in the app's own files, in Play's, or put into the app's external files over adb. */
    public WeightStore weights() {
        Path internal = context.getFilesDir().toPath().resolve("models");
        return new WeightStore(assets(), this::pack, internal, external("models"));
    }

    /** Starts that failed. Android's build stands for the GPU's driver's. */
    public Starts starts() {
        Path directory = context.getNoBackupFilesDir().toPath().resolve("starts");
        String build = String.valueOf(Build.FINGERPRINT);
        return new Starts(directory, build, Process.myPid(), process -> PastProcesses.ending(context, process));
    }

    /** Requests and records of {@code edge-transact bench --app}. */
    public Path bench() {
        return external("bench");
    }

    /** Files of a benchmark run, which may go when it is over. */
    public Path scratch() {
        return context.getCacheDir().toPath().resolve("bench");
    }

    /**
     * The assets of a pack that Google Play brings after the app; null if it isn't there, and then Play is asked for
     * it. By reflection: only an app with such a pack has Play's library.
     */
    private Path pack(String name) {
        try {
            Class<?> managers = Class.forName(PLAY + "AssetPackManager");
            Object manager = Class.forName(PLAY + "AssetPackManagerFactory")
                    .getMethod("getInstance", Context.class)
                    .invoke(null, context);
            Object location = managers.getMethod("getPackLocation", String.class).invoke(manager, name);
            if (location == null) {
                managers.getMethod("fetch", List.class).invoke(manager, Collections.singletonList(name));
                return null;
            }
            Object path = Class.forName(PLAY + "AssetPackLocation").getMethod("assetsPath").invoke(location);
            return path == null ? null : Paths.get((String) path);
        } catch (ReflectiveOperationException error) {
            return null;
        }
    }

    private Source assets() {
        AssetManager assets = context.getAssets();
        return path -> assets.open(ASSETS + path, AssetManager.ACCESS_STREAMING);
    }

    private Path external(String name) {
        File directory = context.getExternalFilesDir(name);
        // A phone whose shared storage isn't there: nothing can have been put into it.
        return (directory == null ? new File(context.getCacheDir(), "external/" + name) : directory).toPath();
    }
}
