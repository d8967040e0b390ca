package edgetransact.app

import edgetransact.edge.Finish
import edgetransact.edge.Message
import edgetransact.edge.Preference
import java.nio.file.Files
import java.nio.file.Paths
import org.json.JSONObject

/** Keeps chats and settings below a directory, and tells how that went. */
fun main(arguments: Array<String>) {
    val directory = Paths.get(arguments[0])
    val store = ChatStore(directory)
    say("nothing", store.list())

    val odd = "a \"b\" \\ \n\t\u0001 😀 </think> é"
    val whole = SavedChat(
        "whole", 2,
        listOf(
            Entry(true, odd),
            Entry(false, "<think>hm</think>\n\nyes", Finish.LENGTH, tokens = 3, tokensPerSecond = 1.5, firstTokenS = 0.25, limit = 3),
            Entry(true, "again"),
            Entry(false, "", failure = "No: ü"),
        ),
    )
    store.add(whole)
    say("whole", ChatStore(directory).read("whole") == whole)
    say("history", whole.history() == listOf(Message.user(odd), Message.assistant("yes")))
    val text = String(Files.readAllBytes(directory.resolve("whole.json")))
    say("format", Message.read(JSONObject(text).getJSONArray("messages").toString()).map { it.text() } == whole.entries.map { it.text })

    say("copyable", whole.entries.map { it.copyable }, Entry(false, "<think>hm", Finish.STOPPED).copyable.isEmpty(), Entry(false, "so far").copyable.isEmpty())

    val open = SavedChat("open", 3, listOf(Entry(true, "\n first\nsecond"), Entry(false, "so far")))
    store.add(open)
    say("open", store.read("open")!!.entries.last().finish, open.entries.last().open, open.title)
    say("order", store.list().map { it.id })

    Files.write(directory.resolve("open.json.fresh"), "{\"chang".toByteArray()) // the phone ended the app while it wrote
    say("cut off", store.list().map { it.id })
    store.add(open.copy(changedMillis = 1))
    say("written again", store.list().map { it.id })

    val damaged = listOf("", "{", "[]", "{}", text.replace("user", "nobody"), text.replace("\"answers\":[", "\"answers\":[7,"), text.replace("\"changed\":2", "\"changed\":\"x\""), "\u0000")
    damaged.forEachIndexed { index, words -> Files.write(directory.resolve("damaged$index.json"), words.toByteArray()) }
    say("damaged", store.list().map { it.id }, store.read("damaged0"))

    store.delete("whole")
    store.update(whole)
    store.delete("whole")
    say("deleted", store.list().map { it.id })

    val settings = Settings("m", Preference.GPU, "Be \"brief\".\n", 0.5, 0.25, 7)
    val file = directory.resolve("settings.json")
    say("defaults", SettingsStore(file).read() == Settings())
    SettingsStore(file).write(settings)
    say("settings", SettingsStore(file).read() == settings, Settings.of(Settings().json()) == Settings())
    val sampling = settings.sampling()
    say("sampling", sampling.temperature(), sampling.topP(), sampling.maxTokens(), Settings().sampling().temperature())
    for (wrong in listOf("", "{", "[]", "null")) say("wrong $wrong", Settings.of(wrong) == Settings())
    val outside = "{\"device\": \"TPU\", \"temperature\": 2.5, \"top_p\": -1, \"max_tokens\": 0, \"system\": \"kept\"}"
    say("outside", Settings.of(outside) == Settings(system = "kept"))
    for (typed in listOf("", " ", "0,5", "1.5", "2", "2.1", "-1", "x", "NaN", "1e9", "٣")) {
        say("typed $typed", runCatching { Settings.number(typed, Settings.TEMPERATURES) }.getOrElse { "no" })
    }
}

private fun say(vararg words: Any?) = println(words.joinToString(" | "))
