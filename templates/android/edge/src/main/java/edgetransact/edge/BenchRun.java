package edgetransact.edge;

import java.nio.file.Path;

/**
 * A run of {@code edge-transact bench --app}: the request in {@code RUN.json}, the lines in {@code RUN.jsonl}. The
 * protocol is in {@code edge_transact/bench/drivers/app.py}.
 */
public final class BenchRun {
    /** The intent's action. */
    public static final String ACTION = "edge_transact.action.BENCH";

    /** The intent's string extra: the name of the run. */
    public static final String EXTRA_RUN = "run";

    private BenchRun() {}

    /**
     * Runs what the request asks for. Blocks until the last line is written, which is {@code final} or {@code error}.
     *
     * @param directory {@code bench} in the app's external files directory
     * @param run the name of the run, from the intent: any app may send one, so it is checked
     * @param models the app's models
     * @param phone what the phone can do
     * @param store the weights
     * @param scratch a directory for files of the run: {@code getCacheDir()/bench}
     * @param engines makes the engine
     */
    public static void run(
            Path directory,
            String run,
            Models models,
            Phone phone,
            WeightStore store,
            Path scratch,
            Engine.Factory engines) {
        throw new UnsupportedOperationException();
    }
}
