package edgetransact.edge;

import edgetransact.edge.EdgeException.Code;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.concurrent.TimeoutException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.json.JSONException;

/**
 * A run of {@code edge-transact bench --app}: the request in {@code RUN.json}, the lines in {@code RUN.jsonl}. The
 * protocol is in {@code edge_transact/benchmarking/drivers/app.py}.
 */
public final class BenchRun {
    /** The intent's action. */
    public static final String ACTION = "edge_transact.action.BENCH";

    /** The intent's string extra: the name of the run. */
    public static final String EXTRA_RUN = "run";

    private static final String NAME = "[A-Za-z0-9-]+";
    private static final String INTERRUPTED = "interrupted: the app was opened, or its benchmark was left";
    private static final Pattern PEAK = Pattern.compile("^VmHWM:\\s*(\\d+) kB", Pattern.MULTILINE);

    private final Models models;
    private final Phone phone;
    private final WeightStore store;
    private final Path scratch;
    private final Engine.Factory engines;

    /**
     * @param models the app's models
     * @param phone what the phone can do
     * @param store the weights
     * @param scratch a directory that the run makes and deletes, where symbolic links can be made: {@code
     *     getCacheDir()/bench}
     * @param engines makes the engine
     */
    public BenchRun(Models models, Phone phone, WeightStore store, Path scratch, Engine.Factory engines) {
        this.models = models;
        this.phone = phone;
        this.store = store;
        this.scratch = scratch;
        this.engines = engines;
    }

    /**
     * Runs what a request asks for. Blocks until the last line is written, which is {@code final} or {@code error}.
     *
     * @param directory {@code bench} in the app's external files directory
     * @param run the name of the run, from the intent
     * @throws IOException the lines can't be written, so the last one may be missing
     * @throws InterruptedException the thread was interrupted; the last line says so
     * @throws IllegalArgumentException the name isn't one: any app can send an intent
     */
    public void run(Path directory, String run) throws IOException, InterruptedException {
        if (!run.matches(NAME)) {
            throw new IllegalArgumentException("not the name of a run: " + run);
        }
        // adb's shell, which wrote these, may not delete them: Android 11 and later leave that to the app.
        for (Path path : Directories.list(directory)) {
            String name = path.getFileName().toString();
            if (name.matches("[A-Za-z0-9-]+\\.jsonl?") && !name.startsWith(run + ".")) {
                Directories.delete(path);
            }
        }
        try (BenchLines lines = new BenchLines(directory.resolve(run + ".jsonl"), run)) {
            lines.start();
            try {
                run(BenchRequest.read(directory.resolve(run + ".json")), lines);
                lines.end();
            } catch (InterruptedException superseded) {
                lines.error(INTERRUPTED);
                throw superseded;
            } catch (TimeoutException error) {
                lines.error("the run took longer than its timeout");
            } catch (EdgeException | IOException | JSONException | RuntimeException error) {
                lines.error(String.valueOf(error.getMessage()));
            }
        }
    }

    /** Writes the lines of a run that was interrupted before it began, since the computer waits for the last one. */
    public static void skip(Path directory, String run) throws IOException {
        if (run.matches(NAME)) {
            try (BenchLines lines = new BenchLines(directory.resolve(run + ".jsonl"), run)) {
                lines.start();
                lines.error(INTERRUPTED);
            }
        }
    }

    private void run(BenchRequest request, BenchLines lines)
            throws EdgeException, InterruptedException, IOException, JSONException, TimeoutException {
        long deadline = System.nanoTime() + (long) (request.timeoutS * 1e9);
        Model model = models.byLibrary(request.modelLib);
        if (model == null) {
            throw EdgeException.of(Code.NO_LIBRARY, request.modelLib);
        }
        int window = model.contextWindowSize();
        if (request.prompt.length + request.decodeTokens > window) {
            throw EdgeException.of(Code.CONTEXT_FULL, "prompt and answer have at most " + window + " tokens");
        }
        Choice choice = Choice.byLibrary(request.modelLib, model, phone);
        Path weights = store.prepare(model, (stage, done, total) -> {});
        Directories.delete(scratch);
        try (LoadedEngine engine = new LoadedEngine(choice, engines)) {
            Loader loader = new Loader(engine, model, choice, weights);
            int[] first = request.checkPrompt == null ? request.prompt : request.checkPrompt;
            lines.load(loader.load(first), shardBytes(model));
            if (request.checkPrompt != null) {
                lines.check(answer(engine, request.checkTokens, deadline));
                loader.load(request.prompt);
            }
            // The phone compiles its kernels now, and not in a repetition.
            answer(engine, Math.min(2, request.decodeTokens), deadline);
            for (int index = 0; index < request.warmups; index++) {
                answer(engine, request.decodeTokens, deadline);
                lines.warmup();
            }
            for (int index = 0; index < request.repetitions; index++) {
                lines.repetition(index, answer(engine, request.decodeTokens, deadline), peakRssMib());
            }
        } finally {
            Directories.delete(scratch);
        }
    }

    private static BenchAnswer answer(LoadedEngine engine, int tokens, long deadline)
            throws EdgeException, InterruptedException, TimeoutException {
        BenchAnswer answer = new BenchAnswer();
        engine.start(Requests.greedy(tokens), answer);
        return answer.await(deadline);
    }

    private static long shardBytes(Model model) {
        long bytes = 0;
        for (Model.File file : model.files()) {
            if (file.path().startsWith("params_shard_")) {
                bytes += file.bytes();
            }
        }
        return bytes;
    }

    /** What Linux says of this process, or null if it doesn't. */
    private static Double peakRssMib() {
        try {
            byte[] status = Files.readAllBytes(Paths.get("/proc/self/status"));
            Matcher peak = PEAK.matcher(new String(status, StandardCharsets.UTF_8));
            return peak.find() ? Long.parseLong(peak.group(1)) / 1024.0 : null;
        } catch (IOException error) {
            return null;
        }
    }

    /** Loads the model for one prompt after the other. */
    private final class Loader {
        private final LoadedEngine engine;
        private final Model model;
        private final Choice choice;
        private final Path weights;
        private int loads;

        private Loader(LoadedEngine engine, Model model, Choice choice, Path weights) {
            this.engine = engine;
            this.model = model;
            this.choice = choice;
            this.weights = weights;
        }

        /** Returns how long it took, in seconds. */
        private double load(int[] prompt) throws EdgeException, InterruptedException, IOException, JSONException {
            Path directory = scratch.resolve(String.valueOf(loads++));
            BenchDirectory.make(directory, model, weights, prompt);
            // A prompt that the cache knows would cost nothing.
            String config = EngineConfig.json(directory, choice.library(), model.contextWindowSize(), false);
            long start = System.nanoTime();
            engine.load(config);
            return (System.nanoTime() - start) / 1e9;
        }
    }
}
