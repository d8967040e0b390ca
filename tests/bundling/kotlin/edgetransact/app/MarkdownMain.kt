package edgetransact.app

import org.json.JSONArray

/** Reads a JSON array of texts from each line, and writes what they mean: pairs of a text and its marks. */
fun main() {
    for (line in generateSequence(::readLine)) {
        val texts = JSONArray(line)
        val read = List(texts.length()) { Markdown.parse(texts.getString(it)) }
        println(JSONArray(read.map { JSONArray(listOf(it.text, JSONArray(it.marks.map(::told)))) }))
    }
}

private fun told(mark: Mark) = JSONArray(listOf(mark.look.name, mark.start, mark.end, mark.level))
