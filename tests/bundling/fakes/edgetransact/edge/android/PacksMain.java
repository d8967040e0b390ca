package edgetransact.edge.android;

import android.content.Context;
import android.content.res.AssetManager;
import edgetransact.edge.EdgeException;
import edgetransact.edge.Model;
import java.io.ByteArrayInputStream;
import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Paths;

/** Says where the files of an app's only model are, or what is wrong with them. */
public final class PacksMain {
    private PacksMain() {}

    /** @param arguments the directory of the app's files, and {@code models.json} */
    public static void main(String[] arguments) throws Exception {
        AppFiles files = new AppFiles(phone(Paths.get(arguments[0]).toFile(), arguments[1]));
        Model model = files.models().list().get(0);
        try {
            System.out.println(files.weights().prepare(model, (stage, done, total) -> {}));
        } catch (EdgeException error) {
            System.out.println(error.code() + " " + error.detail());
        }
    }

    private static Context phone(File home, String models) {
        return new Context() {
            @Override
            public Context getApplicationContext() {
                return this;
            }

            @Override
            public File getFilesDir() {
                return new File(home, "files");
            }

            @Override
            public File getCacheDir() {
                return new File(home, "cache");
            }

            @Override
            public File getExternalFilesDir(String name) {
                return new File(home, "external/" + name);
            }

            @Override
            public AssetManager getAssets() {
                return new AssetManager() {
                    @Override
                    public InputStream open(String path, int mode) throws IOException {
                        if (!path.equals("edge/models.json")) {
                            throw new FileNotFoundException(path);
                        }
                        return new ByteArrayInputStream(models.getBytes(StandardCharsets.UTF_8));
                    }

                    @Override
                    public String[] list(String path) {
                        return new String[0];
                    }
                };
            }
        };
    }
}
