package edgetransact.edge

/** What a model is doing: see [Edge.state]. */
public sealed interface State {
    /**
     * It is being loaded.
     *
     * @property step how far that is; null at the beginning.
     */
    public data class Loading(public val step: edgetransact.edge.Loading.Step?) : State

    /**
     * It waits for a message.
     *
     * @property choice what it runs on, and why.
     */
    public data class Ready(public val choice: Choice) : State

    /** It is answering. */
    public data object Answering : State

    /** It is not in memory: the next message loads it again, unless it was closed. */
    public data object Unloaded : State

    /**
     * It couldn't be loaded, or its engine ended at an answer. The next message or [Edge.reload] tries again.
     *
     * @property error why.
     */
    public data class Failed(public val error: EdgeException) : State
}
