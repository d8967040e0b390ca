package edgetransact.edge;

/** What an app or its user wants a model to run on. */
public enum Preference {
    /** The best that is known to work: a GPU that failed gives way to the CPU. */
    AUTO,
    /** The GPU, even if it failed before. */
    GPU,
    /** The CPU. */
    CPU
}
