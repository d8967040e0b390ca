package edgetransact.edge

/** Hears how a model is loaded, where `suspend` can't be called. On a thread of the library; must not block. */
public interface LoadListener {
    /** How far loading is. */
    public fun step(step: Loading.Step) {}

    /** The model is loaded. Whoever hears this closes it. */
    public fun ready(edge: Edge)

    /** The model can't be loaded. Another exception than [EdgeException] is the cause of an `ENGINE_FAILED`. */
    public fun failed(error: EdgeException)
}

/** Ends what was begun, where coroutines can't be cancelled. Nothing is heard after [cancel]. */
public fun interface Cancellation {
    /** Ends it. Returns at once. */
    public fun cancel()
}
