package edgetransact.app

import edgetransact.edge.Finish
import edgetransact.edge.Message
import edgetransact.edge.Reasoning
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.channels.FileChannel
import java.nio.file.Files
import java.nio.file.Path
import java.nio.file.StandardCopyOption
import java.nio.file.StandardOpenOption
import java.util.UUID
import org.json.JSONArray
import org.json.JSONException
import org.json.JSONObject

/**
 * A message on the screen.
 *
 * @property text what it says so far, with a model's reasoning
 * @property finish how an answer ended, once it did
 * @property failure why there is no answer, or no more of it, in the user's language
 * @property tokens as the engine counts them, or the pieces of an answer that was stopped
 * @property firstTokenS the seconds until the first of them
 * @property limit the most tokens of an answer that the user allowed, if that cut this one off
 */
data class Entry(
    val mine: Boolean,
    val text: String,
    val finish: Finish? = null,
    val failure: String? = null,
    val tokens: Int? = null,
    val tokensPerSecond: Double? = null,
    val firstTokenS: Double? = null,
    val limit: Int? = null,
) {
    /** Whether it is an answer that is being given. */
    val open: Boolean
        get() = !mine && finish == null && failure == null

    /** What there is to copy of an answer: nothing of its reasoning, and nothing before it ended. */
    val copyable: String
        get() = if (mine || open) "" else Reasoning.answer(text)
}

/** A chat as it is kept. It has no file before its first message. */
data class SavedChat(val id: String, val changedMillis: Long = 0, val entries: List<Entry> = emptyList()) {
    /** What it began with, in one line. */
    val title: String
        get() = entries.firstOrNull { it.mine }?.text.orEmpty().trim().lineSequence().first().take(TITLE)

    /** What was said, for a model that goes on with it: an answer that failed was never said. */
    fun history(): List<Message> = entries.zipWithNext()
        .filter { (question, answer) -> question.mine && !answer.mine && answer.failure == null }
        .flatMap { (question, answer) ->
            listOf(Message.user(question.text), Message.assistant(Reasoning.answer(answer.text)))
        }

    companion object {
        private const val TITLE = 80

        /** An empty chat. */
        fun new() = SavedChat(UUID.randomUUID().toString())
    }
}

/** The chats in a directory of the app's own, each a file. Its methods block. */
class ChatStore(private val directory: Path) {
    /** All chats, the one that changed last first. A file that can't be read is left out. */
    fun list(): List<SavedChat> = synchronized(LOCK) {
        val files = try {
            Files.newDirectoryStream(directory, "*$SUFFIX").use { it.toList() }
        } catch (_: IOException) {
            return emptyList() // nothing was kept yet
        }
        files.mapNotNull { read(it.fileName.toString().removeSuffix(SUFFIX)) }.sortedByDescending { it.changedMillis }
    }

    /** The chat with this id, or null. An answer that the end of the app cut off was stopped. */
    fun read(id: String): SavedChat? = synchronized(LOCK) {
        try {
            val json = JSONObject(String(Files.readAllBytes(file(id)), Charsets.UTF_8))
            val messages = Message.read(json.getJSONArray("messages").toString())
            val answers = json.getJSONArray("answers")
            val entries = messages.mapIndexed { index, message -> entry(message, answers.getJSONObject(index)) }
            SavedChat(id, json.getLong("changed"), entries)
        } catch (_: IOException) {
            null
        } catch (_: JSONException) {
            null
        } catch (_: IllegalArgumentException) {
            null
        }
    }

    /** Keeps a new chat. */
    fun add(chat: SavedChat) = synchronized(LOCK) {
        Files.createDirectories(directory)
        writeWhole(file(chat.id), json(chat).toString())
    }

    /** Keeps what a chat has become, unless it was deleted meanwhile. */
    fun update(chat: SavedChat) = synchronized(LOCK) {
        if (Files.exists(file(chat.id))) add(chat)
    }

    /** Deletes a chat. */
    fun delete(id: String) {
        synchronized(LOCK) { Files.deleteIfExists(file(id)) }
    }

    private fun file(id: String): Path = directory.resolve(id + SUFFIX)

    private fun json(chat: SavedChat): JSONObject {
        val messages = chat.entries.map { if (it.mine) Message.user(it.text) else Message.assistant(it.text) }
        return JSONObject()
            .put("changed", chat.changedMillis)
            .put("messages", JSONArray(Message.write(messages)))
            .put("answers", JSONArray(chat.entries.map(::answer)))
    }

    /** What the screen tells of an answer; nothing for the user's messages. */
    private fun answer(entry: Entry) = JSONObject()
        .putOpt("finish", entry.finish?.name)
        .putOpt("failure", entry.failure)
        .putOpt("tokens", entry.tokens)
        .putOpt("tokens_per_s", entry.tokensPerSecond)
        .putOpt("first_token_s", entry.firstTokenS)
        .putOpt("limit", entry.limit)

    private fun entry(message: Message, answer: JSONObject): Entry {
        val mine = message.role() == "user"
        val failure = answer.stringOrNull("failure")
        return Entry(
            mine,
            message.text(),
            finish = Finish.values().firstOrNull { it.name == answer.optString("finish") }
                ?: Finish.STOPPED.takeIf { !mine && failure == null },
            failure = failure,
            tokens = answer.doubleOrNull("tokens")?.toInt(),
            tokensPerSecond = answer.doubleOrNull("tokens_per_s"),
            firstTokenS = answer.doubleOrNull("first_token_s"),
            limit = answer.doubleOrNull("limit")?.toInt(),
        )
    }

    private companion object {
        const val SUFFIX = ".json"
        val LOCK = Any() // of all stores: activities have one each
    }
}

/** Writes a file so that it has its old text or its new one, whenever the phone ends the app. */
internal fun writeWhole(file: Path, text: String) {
    val fresh = file.resolveSibling("${file.fileName}.fresh")
    val options = arrayOf(
        StandardOpenOption.CREATE, StandardOpenOption.WRITE, StandardOpenOption.TRUNCATE_EXISTING,
    )
    FileChannel.open(fresh, *options).use { channel ->
        val bytes = ByteBuffer.wrap(text.toByteArray())
        while (bytes.hasRemaining()) channel.write(bytes)
        channel.force(true)
    }
    Files.move(fresh, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING)
}

internal fun JSONObject.stringOrNull(name: String): String? = if (isNull(name)) null else optString(name)

internal fun JSONObject.doubleOrNull(name: String): Double? = optDouble(name).takeUnless { it.isNaN() }
