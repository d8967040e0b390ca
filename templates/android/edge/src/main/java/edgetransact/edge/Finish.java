package edgetransact.edge;

/** Why an answer ended. */
public enum Finish {
    /** The model ended it. */
    STOP,
    /** The context window is full, or {@link Sampling#maxTokens} are said. */
    LENGTH,
    /** {@link Conversation#stop} ended it. */
    STOPPED
}
