package edgetransact.app

import android.app.ActivityManager
import android.content.ComponentCallbacks
import android.content.ComponentCallbacks2
import android.content.Context
import android.content.res.AssetManager
import android.content.res.Resources
import android.os.Looper
import android.os.Process
import edgetransact.edge.EdgeException
import edgetransact.edge.Finish
import edgetransact.edge.Model
import edgetransact.edge.Preference
import edgetransact.edge.android.Bench
import java.io.File
import java.io.InputStream
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.Paths
import java.util.Locale
import java.util.concurrent.atomic.AtomicBoolean
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.cancelChildren
import kotlinx.coroutines.channels.Channel
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.job
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.yield
import org.apache.tvm.Module
import org.json.JSONObject

private const val GIB = 1L shl 30

/** A phone, whose app has its files below [root]. */
private class Phone(private val root: Path) : Context() {
    var available = 4 * GIB
    var fails = false
    val callbacks = mutableListOf<ComponentCallbacks>()

    /** Strings of the app by their names in `strings.json`. */
    override fun getResources(): Resources =
        object : Resources() {
            private val strings = JSONObject(String(Files.readAllBytes(root.resolve("strings.json"))))

            override fun getString(id: Int): String = strings.getString(name(R.string::class.java, id))

            override fun getString(id: Int, vararg arguments: Any?): String = getString(id).format(Locale.ROOT, *arguments)

            override fun getQuantityString(id: Int, quantity: Int, vararg arguments: Any?): String =
                strings.getString(name(R.plurals::class.java, id)).format(Locale.ROOT, *arguments)

            private fun name(of: Class<*>, id: Int) = of.fields.first { it.getInt(null) == id }.name
        }

    override fun getApplicationContext(): Context = this

    override fun getFilesDir(): File = root.resolve("files").toFile()

    override fun getNoBackupFilesDir(): File = root.resolve("no-backup").toFile()

    override fun getCacheDir(): File = root.resolve("cache").toFile()

    override fun getExternalFilesDir(name: String?): File = root.resolve("external").resolve(name!!).toFile()

    override fun registerComponentCallbacks(callback: ComponentCallbacks) {
        callbacks += callback
    }

    override fun unregisterComponentCallbacks(callback: ComponentCallbacks) {
        callbacks -= callback
    }

    @Suppress("UNCHECKED_CAST")
    override fun <T> getSystemService(service: Class<T>): T =
        object : ActivityManager() {
            override fun getMemoryInfo(info: MemoryInfo) {
                if (fails) throw OutOfMemoryError("Java heap space")
                info.availMem = available
                info.threshold = GIB / 2
            }
        } as T

    override fun getAssets(): AssetManager =
        object : AssetManager() {
            override fun open(path: String, mode: Int): InputStream = Files.newInputStream(root.resolve("assets/$path"))

            override fun list(path: String): Array<String>? = root.resolve("assets/$path").toFile().list()
        }
}

/** A user of the app: what the activities do with a chat's model, in a process of one phone. */
private class User(private val root: Path) {
    val phone = Phone(root)
    private val words = Words(phone)
    var app = model()
    val screen: Screen
        get() = app.screen.value
    val last: Entry
        get() = screen.chat.entries.last()
    val error: EdgeException?
        get() = (screen.status as? Status.Failed)?.error
    private val scope = CoroutineScope(MainThread)

    private fun model() = ChatModel(phone, MainThread, { error, _ -> error.code().name }) { 100 * Module.LOADED.get().toLong() }

    fun start(chat: String? = null) {
        app.start(chat)
        until { ready }
    }

    /** The activity is gone for good, and another one begins. */
    fun again(chat: String?, meanwhile: () -> Unit = {}) {
        app.close()
        app = model()
        app.start(chat)
        meanwhile()
        until { ready }
    }

    val ready: Boolean
        get() = screen.status is Status.Ready

    fun model(id: String): Model = screen.models.first { it.id() == id }

    fun load(wanted: String? = null, load: () -> Unit = { app.load() }) {
        if (wanted == null) load() else app.choose(model(wanted))
        until { !ready }
        until { ready || error != null }
    }

    fun ask(text: String) {
        check(app.send(text)) { "no model to answer $text" }
        until { !screen.answering }
    }

    fun reload(wanted: String) {
        if (screen.model?.id() == wanted) load() else load(wanted)
    }

    fun bench(run: String): AtomicBoolean {
        val ended = AtomicBoolean()
        scope.launch(start = CoroutineStart.UNDISPATCHED) {
            try {
                Bench.run(phone, run)
            } finally {
                ended.set(true)
            }
        }
        return ended
    }

    fun leave() = scope.coroutineContext.job.cancelChildren()

    fun until(done: () -> Boolean) = Looper.runUntil(done)

    /** What the app says of it all. */
    val status: String
        get() = words.of(screen)
    fun after(answer: Entry) = words.of(screen.copy(answered = answer))

    val under: String
        get() = words.under(last)

    fun say(vararg words: Any?) = println(words.joinToString(" | "))

    /** Android wants the memory. */
    fun trim() = (phone.callbacks.single() as ComponentCallbacks2).onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_BACKGROUND)

    /** The library's, which knows how many tokens were said. */
    fun conversation(): Any? = ChatModel::class.java.getDeclaredField("conversation").apply { isAccessible = true }[app]

    fun chats() = chatStore(phone).list()
}

fun main(arguments: Array<String>) {
    val root = Paths.get(arguments[0])
    val user = User(root)
    when (arguments[1]) {
        "first" -> first(user, root).also { frames(user) }
        "second" -> second(user)
        else -> bench(user, root, arguments[2])
    }
    System.out.flush()
    Runtime.getRuntime().halt(0) // as Android ends an app
}

/** Tokens that come a hundred times as fast as frames. */
private fun frames(user: User) = runBlocking {
    val tokens = MutableStateFlow(0)
    val frames = Channel<Unit>()
    val shown = mutableListOf<Int>()
    val watching = launch { tokens.eachFrame(frames::receive) { shown += it } }
    repeat(10) {
        repeat(100) {
            tokens.value++
            yield()
        }
        frames.send(Unit)
        yield()
    }
    watching.cancel()
    user.say("frames", shown.size, shown.last())
}

private fun first(user: User, root: Path) = with(user) {
    start()
    say("loaded", screen.model?.id(), (screen.status as Status.Ready).choice.device(), Files.exists(root.resolve("good_cpu was loaded")))
    ask("one two three")
    say("answered", last.text, last.finish, last.tokens, last.tokensPerSecond, last.firstTokenS != null, screen.answered?.finish)
    say("said", status, under.replace(Regex("after .* s"), "after some"))
    val cutOff = last.copy(finish = Finish.LENGTH)
    say("ends", after(cutOff.copy(failure = "No.")), after(cutOff), after(cutOff.copy(limit = 3)))
    until { screen.memoryBytes != null }
    say("memory", screen.memoryBytes)

    val conversation = conversation()
    app.send("go on")
    until { last.text.length > 10 }
    say("counted", conversation != null && conversation() === conversation)
    val seen = screen
    app.pause() // the activity is destroyed and made again
    app.resume()
    say("turned", screen.chat.entries.size, seen.answering, "loads", Module.LOADS)
    app.stop()
    until { !screen.answering }
    say("stopped", last.text.startsWith("go on"), last.finish, status, Regex("Stopped. \\d+ tokens, \\d+.\\d tokens/s, .*").matches(under))

    app.regenerate()
    until { last.text.length > 10 }
    say("regenerated", screen.chat.entries.size, screen.answering)
    app.stop()
    until { !screen.answering }
    ask("recall")
    say("recalled", last.text.startsWith("user one two three, assistant one two three, user go on, assistant go on"), last.text.endsWith("user recall"))

    val first = screen.chat.id
    app.change(app.settings.copy(system = "Be brief.", maxTokens = 9))
    app.open(null)
    until { screen.chat.id != first }
    say("new", screen.chat.entries.size, chats().size)
    ask("recall")
    say("told", last.text)
    until { chats().size == 2 }
    say("chats", chats().joinToString(" + ") { it.title })
    app.open(first)
    until { screen.chat.id == first }
    say("opened", screen.chat.entries.size, screen.chat.entries.first().text, screen.answered)

    app.send("go on")
    until { last.text.isNotEmpty() }
    app.choose(model("other"))
    until { !screen.answering }
    say("interrupted", last.finish, last.failure)
    app.choose(model("good"))
    app.choose(model("other"))
    until { ready && screen.model?.id() == "other" }
    until { Module.LOADED.get() == 1 }
    ask("one")
    say("chosen", screen.model?.id(), last.text, "loaded", Module.LOADED)

    load("broken")
    say("broken", error?.code(), error?.detail(), "loaded", Module.LOADED)
    say("refused", app.send("anyone?"), screen.answering)
    phone.available = GIB
    load("good")
    say("small", error?.code(), error?.needed(), error?.available())
    load { app.load(anyway = true) }
    say("anyway", error, "loaded", Module.LOADED)
    phone.available = 4 * GIB

    ask("die")
    say("failed", status)
    say("died", last.failure, last.finish, error?.code(), error?.detail())
    load()
    say("loaded again", error, "loaded", Module.LOADED, last.failure)
    val before = screen.chat.entries.size
    app.regenerate()
    until { !screen.answering }
    say("asked again", last.failure, screen.chat.entries.size - before)
    load()
    ask("die twice")
    load()
    say("died twice", error, "loaded", Module.LOADED)
    phone.fails = true
    load()
    say("no memory", error?.code(), error?.detail())
    phone.fails = false
    load()

    app.pause()
    trim()
    until { screen.status == Status.Unloaded && Module.LOADED.get() == 0 }
    app.resume()
    until { ready && screen.memoryBytes != null }
    say("released", "loaded", Module.LOADED, screen.memoryBytes)
    val loaded = Module.LOADS.get()
    app.load()
    until { phone.callbacks.size == 1 && screen.status is Status.Loading }
    trim()
    until { Module.LOADS.get() == loaded + 2 && ready }
    say("seen", "loaded", Module.LOADED)

    val deleted = chats().first { it.id != first }
    chatStore(phone).delete(deleted.id)
    app.resume()
    app.open(deleted.id)
    until { screen.chat.id != first }
    say("deleted", screen.chat.entries.size, chats().size)
    ask("to be deleted")
    until { chats().size == 2 }
    chatStore(phone).delete(screen.chat.id)
    app.resume()
    until { screen.chat.entries.isEmpty() }
    say("gone", chats().size)

    val directory = root.resolve("files/chats")
    Files.move(directory, root.resolve("moved"))
    Files.createFile(directory)
    ask("not kept")
    until { screen.unkept }
    Files.delete(directory)
    Files.move(root.resolve("moved"), directory)
    app.open(null)
    until { screen.chat.entries.isEmpty() }
    ask("kept again")
    until { !screen.unkept }
    say("storage", chats().first().title)

    load { app.change(app.settings.copy(device = Preference.GPU)) }
    say("gpu", error?.code(), status)
    load { app.change(app.settings.copy(device = Preference.AUTO)) }
    load("both")
    say("gave way", (screen.status as Status.Ready).choice.device(), (screen.status as Status.Ready).choice.reason())
    val loads = Module.LOADS.get()
    app.retryGpu()
    until { Module.LOADS.get() > loads && ready }
    say("retried", (screen.status as Status.Ready).choice.reason())
    root.resolve("no-backup/starts").toFile().listFiles()!!.single().writeText("1 of an earlier process")
    load { app.change(app.settings.copy(device = Preference.GPU)) }
    say("ended", error?.code())
    load { app.retryGpu() }
    say("ended and retried", error?.code())
    load { app.change(app.settings.copy(device = Preference.AUTO)) }

    load("good")
    again(null)
    ask("say it")
    again(screen.chat.id)
    say("began again", screen.chat.entries.map { it.text }, "loaded", Module.LOADED)
    val (chat, settings) = screen.chat.id to app.settings
    again(chats().last().id) { // the app was ended while its user looked at chats or settings
        app.open(chat)
        app.change(Settings(model = settings.model))
    }
    until { app.settings != settings && screen.chat.id == chat }
    say("result", screen.chat.entries.size, app.settings == Settings(model = settings.model))
    app.change(settings)
    app.send("go on")
    until { last.text.length > 10 }
    app.pause()
    until { chats().first().entries.run { size == 4 && last().text.isNotEmpty() } }
}

/** The app was ended in the background while it answered. */
private fun second(user: User) = with(user) {
    start(chats().first().id)
    say("restored", screen.chat.entries.size, last.finish, last.text.startsWith("go on"), app.settings.system, screen.model?.id())
    ask("recall")
    say("goes on", last.text.startsWith("system Be brief., user say it, assistant say it, user go on, assistant go on"))
}

private fun bench(user: User, root: Path, request: String) = with(user) {
    start()
    var ended = bench("../../run")
    until { ended.get() }
    say("bench", screen.status, "loaded", Module.LOADED, "killed", Process.KILLED)

    val bench = Files.createDirectories(root.resolve("external/bench"))
    Files.write(bench.resolve("run-1.json"), request.toByteArray())
    ended = bench("run-1")
    val lines = bench.resolve("run-1.jsonl")
    until { Files.exists(lines) && Files.readAllLines(lines).size >= 2 }
    load()
    until { ended.get() }
    say("interrupted benchmark", "loaded", Module.LOADED, "killed", Process.KILLED, Files.readAllLines(lines).joinToString(" | "))

    bench("run-2")
    ended = bench("run-3")
    leave()
    until { ended.get() }
    val skipped = Files.readAllLines(bench.resolve("run-3.jsonl")).joinToString("")
    say("skipped", "\"error\"" in skipped)

    Files.createSymbolicLink(bench.resolve("full.jsonl"), Paths.get("/dev/full"))
    ended = bench("full")
    until { ended.get() }
    say("full", "killed", Process.KILLED)
    for (text in listOf("models.json", "broken/models.json", "both/models.json")) Files.delete(root.resolve("assets/edge/$text"))
    ended = bench("run-1")
    until { ended.get() }
    say("no models", "killed", Process.KILLED)
}
