package edgetransact.tests

import edgetransact.edge.Edge
import edgetransact.edge.EdgeException
import edgetransact.edge.Ending
import edgetransact.edge.Engine
import edgetransact.edge.Host
import edgetransact.edge.Loading
import edgetransact.edge.Memory
import edgetransact.edge.Message
import edgetransact.edge.Models
import edgetransact.edge.Phone
import edgetransact.edge.Piece
import edgetransact.edge.Preference
import edgetransact.edge.Progress
import edgetransact.edge.Sampling
import edgetransact.edge.Starts
import edgetransact.edge.State
import edgetransact.edge.WeightStore
import java.io.PrintStream
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.Paths
import java.nio.file.StandardCopyOption
import java.util.concurrent.CopyOnWriteArrayList
import kotlin.system.exitProcess
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.async
import kotlinx.coroutines.cancel
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout
import kotlinx.coroutines.withTimeoutOrNull
import org.json.JSONArray

/**
 * What an app does with the Kotlin API, over the stand-in engine: each step is a line, a JSON array that begins with its
 * name.
 */
internal object EdgeMain {
    private const val MOST_MILLIS = 100_000L
    private val out = PrintStream(System.out, true, "UTF-8")
    private val pace = Paths.get(System.getenv("JSON_FFI_PACE"))

    /** [arguments]: the phone's directory, the app's assets, and the command of the engine; `killed` to be, in it. */
    @JvmStatic
    fun main(arguments: Array<String>) {
        val engines = PipeEngine.Factory(arguments.drop(2))
        val phone = TestPhone(Paths.get(arguments[0]), Paths.get(arguments[1]), engines)
        if (arguments[2] == "killed") {
            phone.factory = Engine.Factory { _, _ ->
                ProcessBuilder("sh", "-c", "kill -9 \$PPID").start()
                Thread.sleep(MOST_MILLIS) // a signal takes a while on a busy machine
                throw AssertionError("still alive")
            }
        }
        val uncaught = CopyOnWriteArrayList<Throwable>()
        Thread.setDefaultUncaughtExceptionHandler { _, error -> uncaught += error }
        runBlocking {
            withTimeout(MOST_MILLIS) {
                try {
                    val edge = load(phone)
                    answers(edge)
                    others(phone, edge)
                    failures(phone, edge)
                    leaks(phone)
                    say("uncaught", *uncaught.toTypedArray())
                } finally {
                    engines.close()
                }
            }
        }
        exitProcess(0)
    }

    private suspend fun load(phone: TestPhone): Edge {
        phone.forgetCopies()
        val heard = Edge.loading(phone, "short", Preference.AUTO, false).toList()
        val steps = heard.filterIsInstance<Loading.Step>()
        val copied = steps.last { it.stage.name == "COPY" }
        say("stages", *steps.map { it.stage }.distinct().toTypedArray(), heard.size == steps.size + 1)
        say("copied", copied.done, copied.total)
        val edge = (heard.last() as Loading.Ready).edge
        say("gave way", edge.choice?.device(), edge.choice?.reason())
        edge.retryGpu()
        say("retried", edge.choice?.device(), edge.choice?.reason())
        return edge
    }

    private suspend fun CoroutineScope.answers(edge: Edge) {
        val seen = List(2) { CopyOnWriteArrayList<String>() }
        val watching = seen.map { states ->
            launch(Dispatchers.Unconfined) { edge.state.collect { states += it.javaClass.simpleName } }
        }
        val chat = edge.chat()
        val pieces = chat.send("Hi").toList()
        val last = pieces.last()
        val usage = last.usage!!
        say("answer", text(pieces), last.finish, usage.promptTokens(), usage.completionTokens(), pieces.size)
        say("times", usage.secondsToFirstToken()!! > 0, usage.decodeTokensPerSecond()!! > 0)
        say("begun", pieces.dropLast(1).all { it.finish == null && it.usage == null && it.delta.isNotEmpty() })
        watching.forEach { it.cancel() }
        say("observers", *seen.map { it.joinToString(" ") }.toTypedArray())

        val kept = Message.write(chat.messages)
        val restored = edge.chat(history = Message.read(kept))
        say("restored", text(restored.send("And?").toList()), restored.messages.size)
        say("given again", text(restored.regenerate().toList()), restored.messages.size)

        pace("hold" to 2)
        val first = edge.chat()
        val second = edge.chat(system = "Be brief. ", sampling = Sampling(maxTokens = 3))
        val answers = listOf(first, second).map { each ->
            async { text(each.send("Hi").toList()) }.also { edge.state.first { it == State.Answering } }
        }
        delay(100)
        say("take turns", answers[1].isActive)
        pace()
        say("both", answers[0].await(), answers[1].await())

        val all =
            Sampling(0.5, 0.25, -2.0, 1.5, 7, 9, listOf("é", "\n\n"))
        edge.chat(sampling = all).send("Hi").collect()
        edge.chat(sampling = Sampling(jsonSchema = "{}")).also { it.send("Hi").collect() }

        chat.reset()
        say("forgotten", text(chat.send("Hi").toList()), chat.messages.size)
        say("java", JavaCaller.ask(edge, "Hi"))
    }

    /** Another model, unloading, and what ends answers. */
    private suspend fun CoroutineScope.others(phone: TestPhone, edge: Edge) {
        val short = edge.chat()
        val before = text(short.send("Hi").toList())
        val other = Edge.load(phone, "long", Preference.CPU, false) {}
        say("another model", name(edge.state.value), edge.choice, other.choice?.device(), other.choice?.reason())

        val chat = other.chat()
        pace("hold" to 12)
        val heard = StringBuilder()
        var count = 0
        launch {
            chat.send("Hi").collect { piece ->
                heard.append(piece.delta)
                if (++count == 3) cancel()
            }
        }.join()
        pace()
        other.state.first { it is State.Ready }
        say("cancelled", heard, chat.messages.last().text(), chat.messages.size)
        say("goes on", text(chat.send("And?").toList()), chat.messages.size)

        pace("hold" to 3)
        val stopped = other.chat()
        val answer = async { stopped.send("Hi").toList() }
        other.state.first { it == State.Answering }
        stopped.stop()
        say("stopped", answer.await().last().finish, answer.await().last().usage, stopped.messages.size)

        val unloaded = async { chat.send("Why?").toList().last().finish }
        other.state.first { it == State.Answering }
        other.unload()
        say("unloaded", unloaded.await(), name(other.state.value), chat.messages.size)
        pace()

        say("back again", before, text(short.send("And?").toList()), name(edge.state.value), name(other.state.value))
        phone.wantsMemory()
        edge.state.first { it == State.Unloaded }
        edge.reload(Preference.CPU)
        say("reloaded", edge.choice?.reason(), text(short.send("Why?").toList()), short.messages.size)
        say("java reloads", JavaCaller.reload(edge, Preference.GPU), edge.choice?.device())
        edge.reload(Preference.AUTO)
    }

    private suspend fun CoroutineScope.failures(phone: TestPhone, edge: Edge) {
        val chat = edge.chat()
        say("too long", error { chat.send("x".repeat(300)).collect() }, name(edge.state.value), chat.messages.size)
        pace("die" to 1)
        say("died", error { chat.send("Hi").collect() }, name(edge.state.value), chat.messages.size)
        pace()
        say("after death", text(chat.send("Hi").toList()), edge.choice?.device(), edge.choice?.reason())

        phone.free = 10
        say("small", error { Edge.load(phone, null, Preference.AUTO, false) {} }, name(edge.state.value))
        val anyway = Edge.load(phone, null, Preference.AUTO, true) {}
        say("anyway", name(anyway.state.value), anyway.model.id())
        phone.free = Long.MAX_VALUE / 2
        say("no such model", error { Edge.load(phone, "none", Preference.AUTO, false) {} })
        say("nothing said", error { anyway.chat().regenerate().collect() }, name(anyway.state.value))

        phone.forgetCopies()
        for (stage in listOf("COPY", "LOAD")) {
            launch {
                Edge.loading(phone, "long", Preference.AUTO, false).collect { step ->
                    if (step is Loading.Step && step.stage.name == stage) cancel()
                    if (step is Loading.Ready) say("not cancelled", stage)
                }
            }.join()
        }
        say("java hears", JavaCaller.failure(anyway, "x".repeat(300)))
        say("java has nothing to answer", JavaCaller.again(anyway))
        val typo = JavaCaller.Loads().also { Edge.tell(it) { Edge.load(phone, "none", Preference.AUTO, false) {} } }
        say("java has no such model", typo.get())
        say("java has no Android", JavaCaller.loadWithoutAndroid())
        anyway.close()
        anyway.state.first { it == State.Unloaded }
        say("closed", error { anyway.chat().send("Hi").collect() })
        say("java closed", JavaCaller.failure(anyway, "Hi"), JavaCaller.reload(anyway, Preference.AUTO))
        say("watched", phone.watchers)
        edge.unload()
    }

    /** Models that nobody was given, and engines that can't be freed. */
    private suspend fun CoroutineScope.leaks(phone: TestPhone) {
        val watchers = phone.watchers
        launch {
            Edge.loading(phone, "long", Preference.CPU, false).collect {
                while (Memory.holder == null) delay(1)
                cancel()
            }
        }.join()
        val freed = withTimeoutOrNull(MOST_MILLIS / 10) { while (Memory.holder != null) delay(1) }
        say("given to nobody", freed != null, phone.watchers - watchers)

        val given = Edge.loading(phone, "long", Preference.CPU, false).first { it is Loading.Ready } as Loading.Ready
        lateinit var kept: Edge
        launch {
            Edge.loading(phone, "short", Preference.CPU, false).collect {
                if (it is Loading.Ready) {
                    kept = it.edge
                    cancel()
                    delay(1)
                }
            }
        }.join()
        say("given to somebody", name(given.edge.state.value), name(kept.state.value), phone.watchers - watchers)

        val engines = phone.factory
        phone.factory = Engine.Factory { choice, callbacks ->
            val engine = engines.open(choice, callbacks)
            object : Engine by engine {
                override fun close() {
                    engine.close()
                    throw UnsatisfiedLinkError("close")
                }
            }
        }
        kept.reload()
        phone.wantsMemory()
        kept.state.first { it == State.Unloaded }
        kept.reload()
        kept.unloadInBackground()
        kept.state.first { it == State.Unloaded }
        kept.reload()
        kept.close()
        given.edge.reload()
        given.edge.unload()
        say("not freed", name(kept.state.value), name(given.edge.state.value), Memory.holder)
    }

    private fun text(pieces: List<Piece>): String = pieces.joinToString("") { it.delta }

    private fun name(state: State): String = state.javaClass.simpleName

    private suspend fun error(call: suspend () -> Unit): String =
        try {
            call()
            "none"
        } catch (error: EdgeException) {
            "${error.code()} ${error.needed()} ${error.available()}"
        } catch (error: RuntimeException) {
            "${error.javaClass.simpleName} ${error.message}"
        }

    private fun say(vararg words: Any?) {
        out.println(JSONArray(words.map { it as? Number ?: it as? Boolean ?: it.toString() }))
    }

    /** Has the engine hold or die at so many tokens; with none, go on. */
    private fun pace(vararg tokens: Pair<String, Int>) {
        if (tokens.isEmpty()) {
            Files.delete(pace)
        } else {
            val fresh = pace.resolveSibling("fresh")
            Files.write(fresh, tokens.joinToString(",", "{", "}") { "\"${it.first}\": ${it.second}" }.toByteArray())
            Files.move(fresh, pace, StandardCopyOption.ATOMIC_MOVE)
        }
    }
}

/** A phone with OpenCL. */
internal class TestPhone(root: Path, private val assets: Path, var factory: Engine.Factory) : Host {
    private val releases = CopyOnWriteArrayList<() -> Unit>()
    private val copies = root.resolve("internal")
    var free = Long.MAX_VALUE / 2
    val watchers: Int
        get() = releases.size

    override val weights =
        WeightStore({ Files.newInputStream(assets.resolve(it)) }, { null }, copies, root.resolve("external"))

    override val starts =
        Starts(root.resolve("starts"), "driver", ProcessHandle.current().pid().toInt()) { Ending.CRASHED }

    override fun models(): Models = Models.read(Files.readString(assets.resolve("models.json")))

    override fun phone() = Phone({ true }, free, "")

    override fun engines(progress: Progress) = factory

    override fun watch(release: () -> Unit): () -> Unit {
        releases += release
        return { releases -= release }
    }

    fun forgetCopies() = copies.toFile().deleteRecursively()

    fun wantsMemory() = releases.forEach { it() }
}
