package edgetransact.edge

import android.content.Context
import edgetransact.edge.android.AndroidHost
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.channels.awaitClose
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.buffer
import kotlinx.coroutines.flow.callbackFlow
import kotlinx.coroutines.flow.catch
import kotlinx.coroutines.flow.emitAll
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.runInterruptible
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext

/**
 * A model that answers on the phone. Thread-safe.
 *
 * ```
 * val edge = Edge.load(context)
 * val chat = edge.chat(system = "Be brief.")
 * chat.send("Hello").collect { print(it.delta) }
 * edge.close()
 * ```
 *
 * A phone has memory for one model: loading one unloads the one that the process had loaded before. A model that isn't
 * in memory, because of that, of [unload], or because Android wanted the memory while the app was in the background, is
 * loaded again when a chat sends the next message; chats stay.
 *
 * @property model the model.
 */
public class Edge private constructor(public val model: Model, private val host: Host) : AutoCloseable {
    private val answers = Mutex()
    private val states = MutableStateFlow<State>(State.Unloaded)
    private var preference = Preference.AUTO
    private var ignoresMemory = false

    @Volatile private var session: Session? = null
    @Volatile private var closed = false
    private val unwatch = host.watch { background.launch { unload() } }

    /** What the model is doing. Any number of observers may collect it. */
    public val state: StateFlow<State> = states.asStateFlow()

    /** What the model runs on, and why; null while it isn't loaded. */
    public val choice: Choice?
        get() = session?.choice()

    /**
     * Begins a conversation, or goes on with one of earlier. Returns at once, whether or not the model is in memory.
     *
     * @param system what the model is told before all messages, in place of what its own template says; null for that.
     * @param history what was said before, oldest first: [Chat.messages] of another chat, or [Message.read].
     * @param sampling how answers are made.
     */
    @JvmOverloads
    public fun chat(
        system: String? = null,
        history: List<Message> = emptyList(),
        sampling: Sampling = Sampling.DEFAULT,
    ): Chat = Chat(this, system, history, sampling)

    /** Frees the model's memory, and ends the answer that is being given. What was said stays. */
    public suspend fun unload() {
        Memory.mutex.withLock { free() }
    }

    /**
     * Frees the model and loads it again.
     *
     * @param device what to run it on; null for what was wanted the last time.
     * @param ignoreMemory whether to load it although memory may not suffice; null for what was wanted the last time.
     * @throws EdgeException as [Edge.load].
     * @throws IllegalStateException the model was closed.
     */
    @Throws(EdgeException::class)
    public suspend fun reload(device: Preference? = null, ignoreMemory: Boolean? = null) {
        load(device ?: preference, ignoreMemory ?: ignoresMemory) {}
    }

    /**
     * Gives the GPU another try, after [choice] said [Choice.Reason.GPU_FAILED].
     *
     * @throws EdgeException as [Edge.load].
     * @throws IllegalStateException the model was closed.
     */
    @Throws(EdgeException::class)
    public suspend fun retryGpu() {
        withContext(Dispatchers.IO) { host.starts.forget(model) }
        reload(Preference.AUTO)
    }

    /** [unload] for Java. Returns at once. */
    public fun unloadInBackground() {
        background.launch { unload() }
    }

    /** [reload] for Java. Returns at once; the listener hears of it on a thread of the library. */
    @JvmOverloads
    public fun reload(device: Preference? = null, ignoreMemory: Boolean? = null, listener: LoadListener): Cancellation =
        tell(listener) {
            load(device ?: preference, ignoreMemory ?: ignoresMemory, listener::step)
            this
        }

    /** Frees the model for good. Returns at once; a model that is loaded after this waits until the memory is free. */
    override fun close() {
        closed = true
        unwatch()
        background.launch { unload() }
    }

    /** Gives an answer, once no other is being given, and while the flow is collected. */
    internal fun answer(chat: Chat, begin: (Conversation, Listener) -> Unit): Flow<Piece> =
        callbackFlow {
                answers.withLock {
                    val listener =
                        object : Listener {
                            private var calls = emptyList<ToolCall>()
                            @Volatile var session: Session? = null

                            override fun text(delta: String) {
                                trySend(Piece(delta))
                            }

                            override fun toolCalls(asked: List<ToolCall>) {
                                calls = asked
                            }

                            override fun done(finish: Finish, usage: Usage?) {
                                ended(session, null)
                                trySend(Piece("", finish, usage, calls))
                                close()
                            }

                            override fun failed(error: EdgeException) {
                                ended(session, error)
                                close(error)
                            }
                        }
                    val conversation = begin(chat) { loaded, conversation ->
                        listener.session = loaded
                        begin(conversation, listener)
                    }
                    awaitClose { conversation.stop(listener) }
                }
            }
            .buffer(Channel.UNLIMITED)

    /** Tells a listener an answer. */
    internal fun deliver(pieces: Flow<Piece>, listener: Listener): Cancellation {
        val job = background.launch {
            // What the listener itself throws is the app's own, and isn't caught.
            pieces.catch { listener.failed(known(it)) }.collect { piece ->
                if (piece.delta.isNotEmpty()) listener.text(piece.delta)
                if (piece.toolCalls.isNotEmpty()) listener.toolCalls(piece.toolCalls)
                piece.finish?.let { listener.done(it, piece.usage) }
            }
        }
        return Cancellation { job.cancel() }
    }

    /** Begins an answer with a model that is in memory, and stays there until the answer has begun. */
    private suspend fun begin(chat: Chat, begin: (Session, Conversation) -> Unit): Conversation {
        while (true) {
            val loaded = session
            if (loaded == null || loaded.isDead) {
                load(preference, ignoresMemory) {}
                continue
            }
            synchronized(this) {
                if (session === loaded) {
                    val conversation = chat.on(loaded)
                    states.value = State.Answering
                    try {
                        begin(loaded, conversation)
                    } catch (refused: RuntimeException) {
                        ended(loaded, null)
                        throw refused
                    }
                    return conversation
                }
            }
        }
    }

    /** An answer has ended. The caller may have the engine's lock, under which no other is taken. */
    private fun ended(on: Session?, error: EdgeException?) {
        val next = if (error != null && on!!.isDead) State.Failed(error) else State.Ready(on!!.choice())
        states.update { if (it == State.Answering) next else it }
    }

    private suspend fun load(device: Preference, ignoreMemory: Boolean, hear: (Loading.Step) -> Unit) {
        Memory.benchmark?.cancel()
        Memory.mutex.withLock {
            check(!closed) { "the model was closed: load it with Edge.load" }
            preference = device
            ignoresMemory = ignoreMemory
            var loaded = false
            try {
                Memory.holder?.let { it.free(if (it === this) State.Loading(null) else State.Unloaded) }
                states.value = State.Loading(null)
                val progress = Steps { states.value = State.Loading(it); hear(it) }
                // If this is cancelled when the model is loaded, nobody gets what the call returns.
                runInterruptible(Dispatchers.IO) { session = start(progress) }
                states.value = State.Ready(session!!.choice())
                Memory.holder = this
                loaded = true
            } catch (error: Throwable) {
                currentCoroutineContext().ensureActive()
                throw known(error).also { states.value = State.Failed(it) }
            } finally {
                if (!loaded && states.value !is State.Failed) free()
            }
        }
    }

    /** Loads the model. Blocks. */
    private fun start(progress: Progress): Session {
        val now = host.phone()
        val phone = if (ignoresMemory) now.ignoringMemory() else now
        Choice.of(model, phone, preference, host.starts) // before weights are copied
        host.weights.keepOnly(host.models())
        val weights = host.weights.prepare(model, progress)
        return Session.start(model, phone, preference, host.starts, weights, host.engines(progress), progress)
    }

    /** Frees the model, whether or not it is loaded, for what comes [next]. The caller has the memory. */
    internal suspend fun free(next: State = State.Unloaded) {
        val last = synchronized(this) {
            states.value = next
            session.also { session = null }
        }
        withContext(NonCancellable + Dispatchers.IO) {
            try {
                last?.close()
            } catch (failed: Throwable) {
                // It is given up, as one whose driver hangs: what comes next measures the memory that there is.
            }
        }
        if (Memory.holder === this) Memory.holder = null
    }

    /** Loads models. */
    public companion object {
        /** For what goes on when its caller has returned. */
        private val background = CoroutineScope(SupervisorJob() + Dispatchers.Default)

        /**
         * The app's models.
         *
         * @throws EdgeException `MODELS_INVALID`.
         */
        @JvmStatic
        @Throws(EdgeException::class)
        public suspend fun models(context: Context): List<Model> =
            withContext(Dispatchers.IO) { AndroidHost(context).models().list() }

        /**
         * Forgets that the GPU failed with a model, so that the next [load] tries it: the way on from `GPU_FAILED`.
         *
         * @param model the [Model.id] of one of the app's models; null for its first.
         * @throws EdgeException `MODELS_INVALID`.
         * @throws IllegalArgumentException the app has no such model.
         */
        @JvmStatic
        @Throws(EdgeException::class)
        public suspend fun forgetGpuFailure(context: Context, model: String? = null) {
            forgetGpuFailure(AndroidHost(context), model)
        }

        /**
         * Loads a model: copies, downloads and verifies its weights if need be, chooses the GPU or the CPU, and lets it
         * answer once, so that the phone compiles its OpenCL kernels now. Suspends for seconds, and for minutes the first
         * time. Cancelling ends it.
         *
         * A GPU that fails gives way to the CPU, at once or at the next start if it ended the app: [Edge.choice] says so,
         * and [Edge.retryGpu] is the way back. With [Preference.GPU], a GPU that ended the app is `GPU_FAILED` until
         * [forgetGpuFailure].
         *
         * @param model the [Model.id] of one of the app's models; null for its first.
         * @param device what to run it on.
         * @param ignoreMemory whether to load it although memory may not suffice: the way on from `TOO_LITTLE_MEMORY` and
         *   `LACKED_MEMORY`.
         * @throws EdgeException any code but `CONTEXT_FULL`.
         * @throws IllegalArgumentException the app has no such model.
         */
        @JvmStatic
        @Throws(EdgeException::class)
        public suspend fun load(
            context: Context,
            model: String? = null,
            device: Preference = Preference.AUTO,
            ignoreMemory: Boolean = false,
        ): Edge = load(AndroidHost(context), model, device, ignoreMemory) {}

        /**
         * The same as [load], with steps. The model is loaded while the flow is collected, and the last that it gives is
         * [Loading.Ready]. Cancelling the collection ends loading. The flow fails with what [load] throws.
         */
        @JvmStatic
        @JvmOverloads
        public fun loading(
            context: Context,
            model: String? = null,
            device: Preference = Preference.AUTO,
            ignoreMemory: Boolean = false,
        ): Flow<Loading> = loading(AndroidHost(context), model, device, ignoreMemory)

        /** [load] for Java. Returns at once; the listener hears of it on a thread of the library. */
        @JvmStatic
        @JvmOverloads
        public fun load(
            context: Context,
            model: String? = null,
            device: Preference = Preference.AUTO,
            ignoreMemory: Boolean = false,
            listener: LoadListener,
        ): Cancellation =
            tell(listener) { load(AndroidHost(context), model, device, ignoreMemory, listener::step) }

        internal suspend fun forgetGpuFailure(host: Host, model: String?) {
            val forgotten = of(host, model).also { it.close() }.model
            withContext(Dispatchers.IO) { host.starts.forget(forgotten) }
        }

        internal suspend fun load(
            host: Host,
            model: String?,
            device: Preference,
            ignoreMemory: Boolean,
            hear: (Loading.Step) -> Unit,
        ): Edge {
            val edge = of(host, model)
            var loaded = false
            try {
                edge.load(device, ignoreMemory, hear)
                loaded = true
                return edge
            } finally {
                if (!loaded) edge.close()
            }
        }

        internal fun loading(host: Host, model: String?, device: Preference, ignoreMemory: Boolean): Flow<Loading> =
            flow {
                val steps = Channel<Loading.Step>(Channel.UNLIMITED)
                var loaded: Edge? = null
                try {
                    coroutineScope {
                        launch {
                            loaded = load(host, model, device, ignoreMemory) { steps.trySend(it) }
                            steps.close()
                        }
                        emitAll(steps)
                    }
                    currentCoroutineContext().ensureActive()
                    val ready = Loading.Ready(loaded!!)
                    loaded = null // whoever collects closes it from here on
                    emit(ready)
                } finally {
                    loaded?.close()
                }
            }

        private suspend fun of(host: Host, id: String?): Edge {
            val models = withContext(Dispatchers.IO) { host.models().list() }
            val model = if (id == null) models.firstOrNull() else models.find { it.id() == id }
            requireNotNull(model) { "the app has no model $id, but ${models.map { it.id() }}" }
            return Edge(model, host)
        }

        /** Tells a listener how loading goes. What the listener itself throws is the app's own, and isn't caught. */
        internal fun tell(listener: LoadListener, load: suspend () -> Edge): Cancellation {
            val job = background.launch {
                val edge =
                    try {
                        load()
                    } catch (error: Throwable) {
                        ensureActive()
                        return@launch listener.failed(known(error))
                    }
                listener.ready(edge)
            }
            return Cancellation { job.cancel() }
        }

        private fun known(error: Throwable): EdgeException = error as? EdgeException ?: EdgeException.unexpected(error)
    }

    /** Tells steps a hundred times a stage at most. */
    private class Steps(private val hear: (Loading.Step) -> Unit) : Progress {
        private var last: Loading.Step? = null

        override fun at(stage: Stage, done: Long, total: Long) {
            val before = last
            if (before?.stage != stage || done == total || (done - before.done) * 100 >= total) {
                last = Loading.Step(stage, done, total).also(hear)
            }
        }
    }
}
