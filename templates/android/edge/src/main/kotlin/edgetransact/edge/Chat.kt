package edgetransact.edge

import kotlinx.coroutines.flow.Flow

/**
 * A conversation with a model: see [Edge.chat]. Thread-safe.
 *
 * It stays when the model is unloaded, reloaded or fails, and [messages] even when the model is closed.
 *
 * @property system what the model is told before all messages; null for what its own template says.
 * @property sampling how answers are made.
 */
public class Chat internal constructor(
    private val edge: Edge,
    public val system: String?,
    history: List<Message>,
    public val sampling: Sampling,
) {
    private var restored = history.toList()
    private var session: Session? = null
    private var conversation: Conversation? = null

    /**
     * What was said, oldest first, without the system's message: what [Edge.chat] goes on from. A message is there once
     * its answer has ended; if the answer fails, it isn't. [Message.write] makes text of them.
     */
    public val messages: List<Message>
        get() = synchronized(this) { conversation }?.messages() ?: synchronized(this) { restored }

    /** How many of the oldest messages the model no longer sees, because they don't fit into its context window. */
    public val leftOut: Int
        get() = synchronized(this) { conversation }?.leftOut() ?: 0

    /**
     * Sends a message each time that the flow is collected, and gives the answer. An answer that another chat of the
     * model is getting comes first. A model that isn't in memory is loaded first.
     *
     * Cancelling the collection stops the engine; what was said till then stays in [messages]. [stop] ends the flow with
     * a last piece. A slow collector loses nothing.
     *
     * The flow fails with [EdgeException]: `CONTEXT_FULL`, `ENGINE_FAILED`, or what [Edge.load] throws; and with
     * [IllegalStateException] if the model was closed.
     */
    public fun send(text: String): Flow<Piece> = send(listOf(Message.user(text)))

    /**
     * Sends messages, as the other [send]: the results of tools that the model asked for.
     *
     * @param messages a [Message.tool] for each call, or [Message.user].
     */
    public fun send(messages: List<Message>): Flow<Piece> =
        edge.answer(this) { conversation, listener -> conversation.send(messages, listener) }

    /**
     * Has the last message answered again, in place of the answer that it has; as [send].
     *
     * The flow fails with [IllegalStateException] if there is no message.
     */
    public fun regenerate(): Flow<Piece> = edge.answer(this) { conversation, listener -> conversation.regenerate(listener) }

    /**
     * [send] for Java. The listener is called on a thread of the library. If the flow would fail with another exception
     * than [EdgeException], the listener hears `ENGINE_FAILED`, with that as its cause.
     */
    public fun send(text: String, listener: Listener): Cancellation = edge.deliver(send(text), listener)

    /** [send] for Java. The listener is called on a thread of the library. */
    public fun send(messages: List<Message>, listener: Listener): Cancellation = edge.deliver(send(messages), listener)

    /** [regenerate] for Java. The listener is called on a thread of the library. */
    public fun regenerate(listener: Listener): Cancellation = edge.deliver(regenerate(), listener)

    /** Ends the answer that is being given here, if one is. What was said stays. Returns at once. */
    public fun stop() {
        synchronized(this) { conversation }?.stop()
    }

    /** Ends the answer that is being given here, and forgets all messages but the system's. Returns at once. */
    public fun reset() {
        synchronized(this) {
            restored = emptyList()
            conversation
        }?.reset()
    }

    /** The conversation with a loaded model, which goes on from the one with the model that was loaded before. */
    internal fun on(loaded: Session): Conversation =
        synchronized(this) {
            val last = conversation
            if (last != null && session === loaded) return last
            if (last != null) restored = last.messages()
            session = loaded
            loaded.conversation(system, restored, sampling).also { conversation = it }
        }
}
