package edgetransact.app

import kotlinx.coroutines.flow.StateFlow

/**
 * Shows what a flow says, once a frame at most: tokens may come faster. What it says last is always shown.
 *
 * @param frame waits for the next frame
 */
suspend fun <T> StateFlow<T>.eachFrame(frame: suspend () -> Unit, show: (T) -> Unit): Nothing = collect {
    frame()
    show(value)
}
