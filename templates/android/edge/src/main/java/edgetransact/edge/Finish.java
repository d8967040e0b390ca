package edgetransact.edge;

/** Why an answer ended. */
public enum Finish {
    /** The model ended it. */
    STOP,
    /** The context window is full. */
    LENGTH,
    /** {@link Session#stop} ended it. */
    STOPPED
}
