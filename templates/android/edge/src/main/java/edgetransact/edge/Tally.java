package edgetransact.edge;

/** Adds up bytes of a stage for a {@link Progress}. Not thread-safe. */
final class Tally implements Sha256.Counter {
    private final Progress progress;
    private final Stage stage;
    private final long total;
    private long done;

    Tally(Progress progress, Stage stage, long total) {
        this.progress = progress;
        this.stage = stage;
        this.total = total;
        progress.at(stage, 0, total);
    }

    /** How many bytes there are so far. */
    long done() {
        return done;
    }

    @Override
    public void add(long bytes) {
        done += bytes;
        progress.at(stage, done, total);
    }
}
