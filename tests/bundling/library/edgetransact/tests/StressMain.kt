package edgetransact.tests

import edgetransact.edge.Edge
import edgetransact.edge.EdgeException
import edgetransact.edge.Engine
import edgetransact.edge.Preference
import edgetransact.edge.State
import java.nio.file.Paths
import java.util.concurrent.atomic.AtomicInteger
import kotlin.random.Random
import kotlin.system.exitProcess
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.collect
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withTimeout

/** Uses two models from many threads at once, with an engine in the process, and says what is left of it at the end. */
internal object StressMain {
    private val loaded = AtomicInteger()
    private val most = AtomicInteger()
    private val answers = AtomicInteger()

    /** [arguments]: the phone's directory, the app's assets, how much each user does, and a seed. */
    @JvmStatic
    fun main(arguments: Array<String>) {
        val phone = TestPhone(Paths.get(arguments[0]), Paths.get(arguments[1])) { _, callbacks -> WordEngine(callbacks) }
        runBlocking(Dispatchers.Default) {
            withTimeout(MOST_MILLIS) {
                val edges = listOf("short", "long").map { Edge.load(phone, it, Preference.CPU, false) {} }
                coroutineScope {
                    repeat(USERS) { user ->
                        launch {
                            val random = Random(arguments[3].toInt() * USERS + user)
                            repeat(arguments[2].toInt()) { use(edges[random.nextInt(edges.size)], phone, random) }
                        }
                    }
                }
                // It all still works.
                for (edge in edges) {
                    val said = edge.chat().send("end").toList()
                    check(said.joinToString("") { it.delta } == "0 1 2 3 ") { said }
                }
                edges.forEach { it.close() }
                edges.forEach { edge -> edge.state.first { it == State.Unloaded } }
                while (loaded.get() > 0) delay(1)
            }
        }
        println("${most.get()} ${answers.get()} ${phone.watchers}")
        exitProcess(0)
    }

    /** One of the things that apps do. */
    private suspend fun use(edge: Edge, phone: TestPhone, random: Random): Unit = coroutineScope {
        val chat = edge.chat()
        val use = launch {
            try {
                when (random.nextInt(8)) {
                    0 -> edge.unload()
                    1 -> edge.reload()
                    2 -> phone.wantsMemory()
                    else -> {
                        chat.send("Hi").collect()
                        chat.regenerate().collect()
                        check(chat.messages.size in setOf(0, 2)) { chat.messages } // it may have been reset
                        answers.incrementAndGet()
                    }
                }
            } catch (_: EdgeException) {
                // The engine died.
            } catch (error: IllegalStateException) {
                // The first answer may have failed, and the second has nothing to go on from.
                if (error.message != "there is no message to answer") throw error
            }
        }
        delay(random.nextLong(4))
        when (random.nextInt(4)) {
            0 -> use.cancelAndJoin()
            1 -> chat.stop()
            2 -> chat.reset()
        }
    }

    /** Says four words, one after the other, and now and then dies of it. */
    private class WordEngine(private val callbacks: Engine.Callbacks) : Engine {
        private val random = Random(1)
        @Volatile private var aborted: String? = null
        @Volatile private var dead = false
        private var here = false

        override fun reload(engineConfigJson: String) {
            here = true
            most.accumulateAndGet(loaded.incrementAndGet(), ::maxOf)
        }

        override fun chatCompletion(requestJson: String, requestId: String) {
            check(!dead) { "it is over" }
            Thread { answer(requestId) }.start()
        }

        private fun answer(id: String) {
            for (word in 0..3) {
                if (aborted == id) return callbacks.responses("[]")
                if (random.nextInt(200) == 0) {
                    dead = true
                    return callbacks.died("at $word")
                }
                val delta = "{\"content\": \"$word \", \"role\": \"assistant\"}"
                callbacks.responses("[{\"id\": \"$id\", \"choices\": [{\"delta\": $delta, \"finish_reason\": null}]}]")
            }
            val usage = "{\"prompt_tokens\": 1, \"completion_tokens\": 4, \"extra\": {}}"
            callbacks.responses("[{\"id\": \"$id\", \"choices\": [], \"usage\": $usage}]")
        }

        override fun abort(requestId: String) {
            aborted = requestId
        }

        override fun unload() {
            close()
        }

        @Synchronized
        override fun close() {
            if (here) loaded.decrementAndGet()
            here = false
        }
    }

    private const val USERS = 8
    private const val MOST_MILLIS = 150_000L
}
