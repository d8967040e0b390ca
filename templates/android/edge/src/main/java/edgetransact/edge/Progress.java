package edgetransact.edge;

/** Hears how far preparing or loading is; called on the thread that prepares or loads, and must not block. */
@FunctionalInterface
public interface Progress {
    /** Of {@code total} units of the stage, {@code done} are done. */
    void at(Stage stage, long done, long total);
}
