package edgetransact.app

import android.content.Context
import edgetransact.edge.Chat
import edgetransact.edge.Choice
import edgetransact.edge.Edge
import edgetransact.edge.EdgeException
import edgetransact.edge.Finish
import edgetransact.edge.Loading
import edgetransact.edge.Model
import edgetransact.edge.Piece
import edgetransact.edge.Stage
import edgetransact.edge.State
import java.io.IOException
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.SupervisorJob
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext

/** The app's chats. Blocks. */
fun chatStore(context: Context) = ChatStore(context.filesDir.toPath().resolve("chats"))

/** How it is with the model. */
sealed interface Status {
    /** Nothing is known of it yet. */
    data object Starting : Status

    /** It is being loaded: [done] of [total], in bytes where it is [counted]. */
    data class Loading(val stage: Stage, val done: Long, val total: Long, private val startNanos: Long) : Status {
        /** Whether it tells how far it is. */
        val counted: Boolean
            get() = stage != Stage.LOAD && stage != Stage.KERNELS

        /** Since the stage began. */
        val seconds: Long
            get() = (System.nanoTime() - startNanos) / 1_000_000_000
    }

    /** It can answer. */
    data class Ready(val choice: Choice) : Status

    /** Android wanted its memory. It is loaded when it is needed. */
    data object Unloaded : Status

    /** It can't answer. */
    data class Failed(val error: EdgeException) : Status
}

/**
 * What the screen of a chat shows. Immutable.
 *
 * @property model the one that was chosen
 * @property answering whether an answer is being given
 * @property answered the last one that was given since the chat was opened
 * @property memoryBytes what the app takes of the phone's memory
 * @property unkept whether the chat couldn't be written
 */
data class Screen(
    val models: List<Model> = emptyList(),
    val model: Model? = null,
    val status: Status = Status.Starting,
    val chat: SavedChat = SavedChat.new(),
    val answering: Boolean = false,
    val answered: Entry? = null,
    val memoryBytes: Long? = null,
    val unkept: Boolean = false,
)

/**
 * The chat, its model and the settings behind a screen: what androidx calls a view model. Turning the phone doesn't end
 * it, and what it keeps in files outlives the app. Its methods are for the main thread, and none blocks.
 *
 * @param main runs coroutines on the main thread
 * @param describe an error in the user's language
 * @param memory what the app takes, in bytes; takes a while
 */
class ChatModel(
    private val context: Context,
    main: CoroutineDispatcher,
    private val describe: (EdgeException, Model?) -> String,
    private val memory: () -> Long,
) {
    private val scope = CoroutineScope(SupervisorJob() + main)
    private val chats by lazy { chatStore(context) }
    private val store by lazy { SettingsStore(context.filesDir.toPath().resolve("settings.json")) }
    private val mutable = MutableStateFlow(Screen())
    private var edge: Edge? = null
    private var conversation: Chat? = null
    private var life: Job? = null // of the model: ends with it
    private var answering: Job? = null
    private var starting: Job? = null
    private var seen = false

    /** What to show, now and after each change. */
    val screen: StateFlow<Screen> = mutable.asStateFlow()

    /** What the user chose. */
    var settings: Settings = Settings()
        private set

    private val now: Screen
        get() = mutable.value

    /** Begins with a chat of earlier, or a new one, and loads the model that was chosen last. */
    fun start(chat: String?) {
        starting = scope.launch {
            settings = onDisk { store.read() }
            val saved = chat?.let { onDisk { chats.read(it) } }
            try {
                val models = Edge.models(context)
                val model = models.find { it.id() == settings.model } ?: models.firstOrNull()
                mutable.update { it.copy(models = models, model = model, chat = saved ?: it.chat) }
                load()
            } catch (error: EdgeException) {
                mutable.update { it.copy(status = Status.Failed(error), chat = saved ?: it.chat) }
            }
        }
    }

    /** The user is back: the model comes back into memory, and a chat that was deleted is gone. */
    fun resume() {
        seen = true
        if (now.status == Status.Unloaded) attempt { it.reload() }
        val chat = now.chat
        if (chat.entries.isEmpty() || now.answering) return
        scope.launch {
            if (onDisk { chats.read(chat.id) } == null && now.chat.id == chat.id) open(null)
        }
    }

    /** The user does something else, and Android may end the app: what an answer says so far is kept. */
    fun pause() {
        seen = false
        if (now.answering) save(now.chat)
    }

    /** The screen is gone for good. */
    fun close() {
        answering?.cancel()
        life?.cancel()
    }

    /** Loads the model again, even if memory may not suffice where [anyway] says so, or on a GPU that failed. */
    fun load(anyway: Boolean = false, retryGpu: Boolean = false) {
        val model = now.model ?: return
        val last = life
        edge = null // nothing is sent to the present one any more
        conversation = null
        mutable.update { it.copy(status = Status.Starting, answered = null, memoryBytes = null) }
        life = scope.launch {
            stopAndWait()
            last?.cancelAndJoin()
            live(model, anyway, retryGpu)
        }
    }

    /** Takes another model. */
    fun choose(model: Model) {
        if (model.id() == now.model?.id()) return
        mutable.update { it.copy(model = model) }
        keep(settings.copy(model = model.id()))
        load()
    }

    /** Gives the GPU another try. */
    fun retryGpu() {
        if (edge == null) load(retryGpu = true) else attempt { it.retryGpu() }
    }

    /** Follows other settings. */
    fun change(wanted: Settings) {
        scope.launch(start = CoroutineStart.UNDISPATCHED) { // so that they are there at once, if they can be
            starting?.join()
            val device = settings.device
            keep(wanted)
            if (device != wanted.device) load()
        }
    }

    /** Goes on with a chat that was kept, or a new one where [id] is null. */
    fun open(id: String?) {
        scope.launch {
            starting?.join()
            stopAndWait()
            val chat = id?.let { onDisk { chats.read(it) } } ?: SavedChat.new()
            mutable.update { it.copy(chat = chat, answered = null) }
        }
    }

    /** Sends a message, if a model is there to answer it. */
    fun send(text: String): Boolean {
        val edge = edge
        if (edge == null || now.answering) return false
        val chat = conversation(edge)
        answer(now.chat.entries + Entry(mine = true, text), chat.send(text))
        return true
    }

    /** Has the last message answered again. */
    fun regenerate() {
        val edge = edge
        val entries = now.chat.entries
        if (edge == null || now.answering || entries.size < 2) return
        val chat = conversation(edge)
        // The library forgets a message whose answer failed.
        val failed = entries.last().failure != null
        val pieces = if (failed) chat.send(entries[entries.size - 2].text) else chat.regenerate()
        answer(entries.dropLast(1), pieces)
    }

    /** Ends the answer that is being given. What it says so far stays. */
    fun stop() {
        answering?.cancel()
    }

    /** Loads a model and follows what becomes of it. */
    private suspend fun live(model: Model, anyway: Boolean, retryGpu: Boolean) {
        var loaded: Edge? = null
        try {
            if (retryGpu) Edge.forgetGpuFailure(context, model.id())
            Edge.loading(context, model.id(), settings.device, anyway).collect {
                when (it) {
                    is Loading.Step -> show(it)
                    is Loading.Ready -> loaded = it.edge
                }
            }
            edge = loaded
            loaded?.state?.collect { if (edge === loaded) show(it) }
        } catch (error: EdgeException) {
            mutable.update { it.copy(status = Status.Failed(error)) }
        } finally {
            edge = null
            loaded?.close()
        }
    }

    private fun show(state: State) {
        when (state) {
            is State.Loading -> state.step?.let(::show)
            is State.Ready -> {
                mutable.update { it.copy(status = Status.Ready(state.choice)) }
                measure()
            }
            State.Answering -> Unit
            State.Unloaded -> {
                mutable.update { it.copy(status = Status.Unloaded, memoryBytes = null) }
                if (seen) attempt { it.reload() } // the user came back before the memory was given back
            }
            is State.Failed -> mutable.update { it.copy(status = Status.Failed(state.error), memoryBytes = null) }
        }
    }

    private fun show(step: Loading.Step) = mutable.update {
        val last = it.status as? Status.Loading
        val next = Status.Loading(step.stage, step.done, step.total, System.nanoTime())
        it.copy(status = if (last?.stage == step.stage) last.copy(done = step.done, total = step.total) else next)
    }

    private fun measure() {
        scope.launch {
            val bytes = withContext(Dispatchers.IO) { memory() }
            mutable.update { if (it.status is Status.Ready) it.copy(memoryBytes = bytes) else it }
        }
    }

    /** Has the model do what it tells the outcome of itself. */
    private fun attempt(action: suspend (Edge) -> Unit) {
        val edge = edge ?: return
        scope.launch {
            try {
                action(edge)
            } catch (_: EdgeException) {
                // Its state says so.
            } catch (_: IllegalStateException) {
                // Another model took its place meanwhile.
            }
        }
    }

    /** The conversation with the model, as far as the chat on the screen has gone. */
    private fun conversation(edge: Edge): Chat {
        val history = now.chat.history()
        val last = conversation?.takeIf { it.messages == history }
        return last ?: edge.chat(settings.system.ifEmpty { null }, history, settings.sampling()).also { conversation = it }
    }

    /** Shows and keeps an answer to the last of some entries, while it is given. */
    private fun answer(entries: List<Entry>, pieces: Flow<Piece>) {
        val isNew = now.chat.entries.isEmpty()
        val limit = settings.maxTokens
        val pace = Pace()
        var chat = SavedChat(now.chat.id, System.currentTimeMillis(), entries + Entry(mine = false, ""))
        mutable.update { it.copy(chat = chat, answering = true, answered = null) }
        save(chat, isNew)
        answering = scope.launch(start = CoroutineStart.UNDISPATCHED) { // so that it ends as it should, if it must at once
            fun change(change: (Entry) -> Entry) {
                chat = chat.copy(entries = entries + change(chat.entries.last()))
                mutable.update { if (it.chat.id == chat.id) it.copy(chat = chat) else it }
            }
            try {
                pieces.collect { piece -> change { it.with(piece, limit, pace) } }
            } catch (error: EdgeException) {
                change { it.copy(failure = describe(error, now.model)) }
            } catch (_: IllegalStateException) {
                // Another model takes this one's place.
            } finally {
                if (chat.entries.last().open) change { it.copy(finish = Finish.STOPPED) }
                mutable.update { it.copy(answering = false, answered = chat.entries.last()) }
                save(chat)
            }
        }
    }

    private fun Entry.with(piece: Piece, limit: Int?, pace: Pace): Entry {
        if (piece.delta.isNotEmpty()) pace.hear()
        val usage = piece.usage
        return copy(
            text = text + piece.delta,
            finish = piece.finish,
            tokens = usage?.completionTokens() ?: pace.tokens,
            tokensPerSecond = if (usage == null) pace.tokensPerSecond else usage.decodeTokensPerSecond(),
            firstTokenS = if (usage == null) pace.firstTokenS else usage.secondsToFirstToken(),
            limit = limit.takeIf { piece.finish == Finish.LENGTH && it == usage?.completionTokens() },
        )
    }

    /** How fast an answer comes, until the engine says it: a piece is a token, but for rare ones. */
    private class Pace {
        private val startNanos = System.nanoTime()
        private var firstNanos = startNanos
        private var lastNanos = startNanos
        var tokens = 0
            private set
        val firstTokenS: Double
            get() = (firstNanos - startNanos) / 1e9
        val tokensPerSecond: Double?
            get() = if (lastNanos > firstNanos) (tokens - 1) * 1e9 / (lastNanos - firstNanos) else null

        fun hear() {
            lastNanos = System.nanoTime()
            if (tokens++ == 0) firstNanos = lastNanos
        }
    }

    private suspend fun stopAndWait() {
        answering?.cancelAndJoin()
    }

    private fun keep(wanted: Settings) {
        if (wanted == settings) return
        settings = wanted
        conversation = null
        write { store.write(wanted) }
    }

    private fun save(chat: SavedChat, isNew: Boolean = false) {
        write { if (isNew) chats.add(chat) else chats.update(chat) }
    }

    private fun write(work: () -> Unit) {
        scope.launch {
            val failed = try {
                onDisk(work)
                false
            } catch (_: IOException) {
                true // a chat can go on without
            }
            mutable.update { it.copy(unkept = failed) }
        }
    }

    private suspend fun <T> onDisk(work: () -> T): T = disk.withLock { withContext(Dispatchers.IO) { work() } }

    private companion object {
        val disk = Mutex() // what is read and written comes in the order in which it was asked for
    }
}
