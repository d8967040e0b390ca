package edgetransact.edge;

/** What an app or its user wants a model to run on. */
public enum Preference {
    /** The best that is known to work: a GPU that failed gives way to the CPU. */
    AUTO,
    /** The GPU, even if its engine failed before, unless it ended the app: {@link Starts#forget} comes first then. */
    GPU,
    /** The CPU. */
    CPU
}
