package edgetransact.app;

import android.app.ActivityManager;
import android.content.Context;
import android.content.res.AssetManager;
import android.os.Looper;
import android.os.Process;
import edgetransact.edge.EdgeException;
import edgetransact.edge.Model;
import edgetransact.edge.android.AppFiles;
import edgetransact.edge.android.ModelHolder;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.List;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.tvm.Module;

/** A user of the app: what the activities do with the model's holder and the chat, in a process of one phone. */
public final class AppMain {
    private static final int GIB = 1 << 30;

    private static long available = 4L * GIB;
    private static volatile boolean phoneFails;

    private AppMain() {}

    public static void main(String[] arguments) throws Exception {
        Context phone = new Phone(Paths.get(arguments[0]));
        ModelHolder holder = ModelHolder.of(phone);
        Chat chat = Chat.of(phone);
        List<Model> models = new AppFiles(phone).models().list();
        Model good = models.get(0);
        Model other = models.get(1);
        Model broken = models.get(2);

        holder.load(good);
        Looper.runUntil(() -> holder.session() != null);
        say("loaded", holder.model().id(), holder.session().choice().device());
        say("library", Files.exists(Paths.get(arguments[0], "good_cpu was loaded")));

        chat.send("one two three");
        Looper.runUntil(() -> !chat.answering());
        say("answered", last(chat).text, last(chat).finish, last(chat).usage.completionTokens());

        Runnable first = () -> say("the first screen was told");
        chat.observe(first);
        chat.observe(() -> {});
        chat.forget(first);
        chat.send("go on");
        Looper.runUntil(() -> last(chat).text.length() > 0);
        say("turned", chat.bubbles().size(), chat.answering(), "loads", Module.LOADS);
        chat.stop();
        Looper.runUntil(() -> !chat.answering());
        say("stopped", last(chat).text.toString().startsWith("go "), last(chat).finish);

        chat.restart();
        say("restarted", chat.bubbles().size(), holder.session() != null);

        chat.send("go on");
        holder.load(other);
        say("interrupted", last(chat).finish, chat.answering());
        holder.load(good);
        holder.load(other);
        Looper.runUntil(() -> holder.session() != null);
        say("chosen", holder.model().id(), chat.bubbles().size(), "loaded", Module.LOADED);

        holder.load(broken);
        Looper.runUntil(() -> holder.error() != null);
        say("broken", holder.error().code(), holder.error().detail(), "loaded", Module.LOADED);

        available = GIB;
        holder.load(good);
        Looper.runUntil(() -> holder.error() != null);
        say("small", holder.error().code(), holder.error().needed(), holder.error().available());
        holder.loadAnyway();
        Looper.runUntil(() -> holder.session() != null);
        say("anyway", holder.error(), "loaded", Module.LOADED);
        available = 4L * GIB;

        holder.load(good);
        Looper.runUntil(() -> holder.session() != null);
        chat.send("die");
        Looper.runUntil(() -> !chat.answering());
        EdgeException error = last(chat).error;
        say("died", error.code(), error.detail(), holder.session() == null, holder.error() == error);
        holder.load(good);
        Looper.runUntil(() -> holder.session() != null);
        say("loaded again", chat.bubbles().size(), holder.error(), "loaded", Module.LOADED);

        chat.send("die twice");
        Looper.runUntil(() -> !chat.answering());
        Thread.sleep(50); // both loops end
        holder.load(good);
        Looper.runUntil(() -> holder.session() != null);
        say("died twice", holder.error(), "loaded", Module.LOADED);

        phoneFails = true;
        holder.load(good);
        Looper.runUntil(() -> holder.error() != null);
        say("no memory", holder.error().code(), holder.error().detail());
        phoneFails = false;
        holder.load(good);
        Looper.runUntil(() -> holder.session() != null);

        AtomicBoolean ended = bench(holder, "../../run");
        Looper.runUntil(ended::get);
        say("bench", holder.session() == null, "loaded", Module.LOADED, "killed", Process.KILLED);

        Path bench = Files.createDirectories(Paths.get(arguments[0], "external", "bench"));
        Files.write(bench.resolve("run-1.json"), arguments[1].getBytes(StandardCharsets.UTF_8));
        ended = bench(holder, "run-1");
        Path lines = bench.resolve("run-1.jsonl");
        while (!Files.exists(lines) || Files.readAllLines(lines).size() < 2) {
            Thread.sleep(1);
        }
        holder.load(good);
        Looper.runUntil(() -> holder.session() != null);
        String told = String.join(" | ", Files.readAllLines(lines));
        say("opened", ended, "loaded", Module.LOADED, "killed", Process.KILLED, told);

        bench(holder, "run-2");
        ended = bench(holder, "run-3");
        holder.load(good);
        Looper.runUntil(ended::get);
        Looper.runUntil(() -> holder.session() != null);
        say("skipped", String.join("", Files.readAllLines(bench.resolve("run-3.jsonl"))).contains("\"error\""));

        Files.createSymbolicLink(bench.resolve("full.jsonl"), Paths.get("/dev/full"));
        ended = bench(holder, "full");
        Looper.runUntil(ended::get);
        say("full", "killed", Process.KILLED);
        for (String text : new String[] {"models.json", "broken/models.json"}) {
            Files.delete(Paths.get(arguments[0], "assets", "edge", text));
        }
        ended = bench(holder, "run-1");
        Looper.runUntil(ended::get);
        say("no models", "killed", Process.KILLED);
        System.exit(0);
    }

    /** Starts a benchmark; true once its activity has ended. */
    private static AtomicBoolean bench(ModelHolder holder, String run) {
        AtomicBoolean ended = new AtomicBoolean();
        holder.bench(run, () -> ended.set(true));
        return ended;
    }

    private static Chat.Bubble last(Chat chat) {
        return chat.bubbles().get(chat.bubbles().size() - 1);
    }

    private static void say(Object... words) {
        StringBuilder line = new StringBuilder();
        for (Object word : words) {
            line.append(line.length() == 0 ? "" : " | ").append(word);
        }
        System.out.println(line);
    }

    private static final class Phone extends Context {
        private final Path root;

        private Phone(Path root) {
            this.root = root;
        }

        @Override
        public Context getApplicationContext() {
            return this;
        }

        @Override
        public File getFilesDir() {
            return root.resolve("files").toFile();
        }

        @Override
        public File getNoBackupFilesDir() {
            return root.resolve("no-backup").toFile();
        }

        @Override
        public File getCacheDir() {
            return root.resolve("cache").toFile();
        }

        @Override
        public File getExternalFilesDir(String name) {
            return root.resolve("external").resolve(name).toFile();
        }

        @Override
        @SuppressWarnings("unchecked")
        public <T> T getSystemService(Class<T> service) {
            return (T) new ActivityManager() {
                @Override
                public void getMemoryInfo(MemoryInfo info) {
                    if (phoneFails) {
                        throw new OutOfMemoryError("Java heap space");
                    }
                    info.availMem = available;
                    info.threshold = GIB / 2;
                }
            };
        }

        @Override
        public AssetManager getAssets() {
            return new AssetManager() {
                @Override
                public InputStream open(String path, int mode) throws IOException {
                    return Files.newInputStream(root.resolve("assets").resolve(path));
                }

                @Override
                public String[] list(String path) throws IOException {
                    return root.resolve("assets").resolve(path).toFile().list();
                }
            };
        }
    }
}
