package edgetransact.edge;

/** Why an answer ended. */
public enum Finish {
    /** The model ended it. */
    STOP,
    /** The context window is full, or {@link Sampling#maxTokens} are said. */
    LENGTH,
    /** The model asks for tools: {@link Listener#toolCalls} told which. */
    TOOL_CALLS,
    /** {@link Conversation#stop} ended it. */
    STOPPED
}
