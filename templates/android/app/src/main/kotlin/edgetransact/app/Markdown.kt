package edgetransact.app

/** How a part of a text looks. */
enum class Look { BOLD, ITALIC, CODE, CODE_BLOCK, HEADING, ITEM }

/**
 * Characters from [start] up to [end] that look alike.
 *
 * @property level of a [Look.HEADING] 1 to 6, of an [Look.ITEM] how deep its list is nested, from 0
 */
data class Mark(val look: Look, val start: Int, val end: Int, val level: Int = 0)

/** A text without markup, and how its parts look. */
data class Marked(val text: String, val marks: List<Mark>)

/**
 * The Markdown that models write: paragraphs, headings, lists, code blocks, bold, italic and code. Everything else,
 * tables and links for example, stays as it was written. It knows nothing of Android, any text will do, and the time
 * that it takes grows with the text's length, whatever the text is.
 */
object Markdown {
    /** The text that [source] means. It may end anywhere, as an answer does that isn't complete. */
    fun parse(source: String): Marked {
        val text = StringBuilder()
        val marks = mutableListOf<Mark>()
        var last: Block? = null
        for (block in Blocks(source.lines()).read()) {
            if (last != null) {
                text.append(if (last.look == Look.ITEM && block.look == Look.ITEM) "\n" else "\n\n")
            }
            val start = text.length
            text.append(block.label)
            if (block.look == Look.CODE_BLOCK) {
                text.append(block.content)
            } else {
                val inside = Inlines(block.content).read()
                marks += inside.marks.map { it.copy(start = it.start + text.length, end = it.end + text.length) }
                text.append(inside.text)
            }
            if (block.look != null && text.length > start) {
                marks += Mark(block.look, start, text.length, block.level)
            }
            last = block
        }
        return Marked(text.toString(), marks)
    }
}

/** A paragraph where [look] is null. */
private class Block(val look: Look?, val level: Int, val label: String, val content: String)

/** Divides lines into blocks. */
private class Blocks(private val lines: List<String>) {
    private val blocks = mutableListOf<Block>()
    private val open = StringBuilder() // what an item or a paragraph has so far
    private var item: Block? = null // the one that `open` belongs to
    private val indents = ArrayDeque<Int>() // of the lists around an item

    fun read(): List<Block> {
        var next = 0
        while (next < lines.size) {
            val line = lines[next++]
            val words = line.trim()
            val indent = line.length - line.trimStart().length
            val fence = fence(words)
            val heading = words.takeWhile { it == '#' }.length
            when {
                words.isEmpty() -> close()
                fence > 0 -> {
                    val end = (next until lines.size).firstOrNull { closes(lines[it].trim(), words[0], fence) }
                    val code = lines.subList(next, end ?: lines.size)
                    add(indent, Block(Look.CODE_BLOCK, 0, "", code.joinToString("\n") { it.withoutIndent(indent) }))
                    next = (end ?: lines.size) + 1
                }
                heading in 1..MOST_LEVELS && words.getOrElse(heading) { ' ' }.isWhitespace() ->
                    add(indent, Block(Look.HEADING, heading, "", heading(words.substring(heading))))
                isRule(words) -> close()
                else -> text(indent, line.trimStart())
            }
        }
        close()
        return blocks
    }

    private fun text(indent: Int, words: String) {
        val label = label(words)
        if (label == 0) {
            if (open.isEmpty() && item == null) leave(indent)
            if (open.isNotEmpty()) open.append('\n')
            open.append(words)
            return
        }
        close()
        leave(indent)
        indents.addLast(indent)
        val shown = if (words[0] in BULLETS) "•" else words.substring(0, label)
        item = Block(Look.ITEM, minOf(indents.size - 1, MOST_LEVELS), "$shown ", "")
        open.append(words.substring(label).trimStart())
    }

    private fun close() {
        val started = item ?: Block(null, 0, "", "")
        val content = open.trimEnd().toString()
        if (item != null || content.isNotEmpty()) {
            blocks += Block(started.look, started.level, started.label, content)
        }
        item = null
        open.setLength(0)
    }

    private fun add(indent: Int, block: Block) {
        close()
        leave(indent)
        blocks += block
    }

    /** What begins so far to the right isn't in the lists that begin there. */
    private fun leave(indent: Int) {
        while (indents.isNotEmpty() && indents.last() >= indent) indents.removeLast()
    }

    /** How many backticks or tildes begin a code block with these words; 0 if they don't. */
    private fun fence(words: String): Int {
        val first = words.firstOrNull() ?: return 0
        val count = words.takeWhile { it == first }.length
        val begins = (first == '`' && words.indexOf('`', count) < 0) || first == '~'
        return if (begins && count >= FENCE) count else 0
    }

    private fun closes(words: String, fence: Char, count: Int) =
        words.length >= count && words.all { it == fence }

    private fun heading(rest: String): String {
        val words = rest.trim()
        val without = words.trimEnd('#')
        return if (without.isEmpty() || without.last().isWhitespace()) without.trimEnd() else words
    }

    private fun isRule(words: String): Boolean {
        val first = words[0]
        return first in RULES && words.all { it == first || it == ' ' } && words.count { it == first } >= FENCE
    }

    /** How long the bullet or the number of an item is that begins with these words; 0 if they aren't one. */
    private fun label(words: String): Int {
        val digits = words.takeWhile { it in '0'..'9' }.length
        val length = when {
            words[0] in BULLETS -> 1
            digits in 1..MOST_DIGITS && words.getOrNull(digits) in ENDS_OF_NUMBERS -> digits + 1
            else -> return 0
        }
        // A line of a paragraph may begin with a year and a full stop.
        val goesOn = item == null && open.isNotEmpty()
        val begins = !goesOn || (words.length > length && (digits == 0 || words.substring(0, digits).toInt() == 1))
        return if (begins && words.getOrElse(length) { ' ' }.isWhitespace()) length else 0
    }

    private fun String.withoutIndent(indent: Int): String =
        drop(minOf(indent, takeWhile { it == ' ' }.length))

    private companion object {
        const val FENCE = 3
        const val MOST_LEVELS = 6
        const val MOST_DIGITS = 9
        const val BULLETS = "-*+"
        const val RULES = "-*_"
        val ENDS_OF_NUMBERS = listOf('.', ')')
    }
}

/** Finds bold, italic and code in a block, as CommonMark 0.31.2 says: its appendix has the algorithm. */
private class Inlines(private val source: String) {
    private class Piece(var text: String)

    /** Asterisks or underscores in a row, of which [left] aren't used up. */
    private class Run(val piece: Int, val char: Char, val length: Int, val opens: Boolean, val closes: Boolean) {
        var left = length
        var before: Run? = null
        var after: Run? = null

        /** Whether this and [closer] belong together: the rule of three keeps `**a*b**` whole. */
        fun opens(closer: Run): Boolean {
            val three = (closer.opens || closes) && closer.length % 3 != 0 && (length + closer.length) % 3 == 0
            return opens && char == closer.char && !three
        }
    }

    /** Looks alike from the end of one piece to the start of another. */
    private class Styled(val look: Look, val from: Int, val to: Int)

    private val pieces = mutableListOf<Piece>()
    private val plain = StringBuilder()
    private val pairs = mutableListOf<Styled>()
    private val runs = mutableListOf<Run>()
    private val lastTicks = HashMap<Int, Int>() // where the last run of so many backticks begins

    fun read(): Marked {
        var tick = source.indexOf('`')
        while (tick >= 0) {
            lastTicks[runLength(tick)] = tick
            tick = source.indexOf('`', tick + runLength(tick))
        }
        var next = 0
        while (next < source.length) {
            next = when (source[next]) {
                '\\' -> escaped(next)
                '`' -> code(next)
                '*', '_' -> run(next)
                else -> {
                    if (source[next] == '\n') while (plain.endsWith(' ')) plain.setLength(plain.length - 1)
                    plain.append(source[next])
                    next + 1
                }
            }
        }
        piece("")
        pair()
        return assemble()
    }

    private fun assemble(): Marked {
        val text = StringBuilder()
        val starts = IntArray(pieces.size) { index -> text.length.also { text.append(pieces[index].text) } }
        val marks = pairs.map { Mark(it.look, starts[it.from] + pieces[it.from].text.length, starts[it.to]) }
        return Marked(text.toString(), marks.filter { it.end > it.start })
    }

    /** Adds a piece after what is plain so far, and returns its index. */
    private fun piece(text: String): Int {
        pieces += Piece(plain.toString())
        plain.setLength(0)
        pieces += Piece(text)
        return pieces.size - 1
    }

    private fun runLength(start: Int): Int {
        var end = start
        while (end < source.length && source[end] == source[start]) end++
        return end - start
    }

    private fun escaped(start: Int): Int {
        val next = source.getOrNull(start + 1)
        val means = next == '\n' || (next != null && next.code in 33..126 && !next.isLetterOrDigit())
        plain.append(if (means) next else '\\')
        return if (means) start + 2 else start + 1
    }

    /** Code ends at as many backticks as it began with. */
    private fun code(start: Int): Int {
        val length = runLength(start)
        val inside = start + length
        if ((lastTicks[length] ?: 0) < inside) {
            plain.append(source, start, inside)
            return inside
        }
        var end = source.indexOf('`', inside)
        while (runLength(end) != length) end = source.indexOf('`', end + runLength(end))
        val words = source.substring(inside, end).replace('\n', ' ')
        val padded = words.startsWith(' ') && words.endsWith(' ') && words.any { it != ' ' }
        val from = piece("")
        plain.append(if (padded) words.substring(1, words.length - 1) else words)
        pairs += Styled(Look.CODE, from, piece(""))
        return end + length
    }

    private fun run(start: Int): Int {
        val length = runLength(start)
        val before = if (start == 0) SPACE else source.codePointBefore(start)
        val after = if (start + length == source.length) SPACE else source.codePointAt(start + length)
        val left = !isSpace(after) && (!isPunctuation(after) || isSpace(before) || isPunctuation(before))
        val right = !isSpace(before) && (!isPunctuation(before) || isSpace(after) || isPunctuation(after))
        val word = source[start] == '_' // underscores within words, as in snake_case, are text
        val opens = left && (!word || !right || isPunctuation(before))
        val closes = right && (!word || !left || isPunctuation(after))
        val run = Run(piece(source.substring(start, start + length)), source[start], length, opens, closes)
        run.before = runs.lastOrNull()
        run.before?.after = run
        runs += run
        return start + length
    }

    /** Pairs runs that open with runs that close. */
    private fun pair() {
        val bottoms = HashMap<Triple<Char, Boolean, Int>, Int>() // nothing before this piece opens for such a closer
        var closer = runs.firstOrNull()
        while (closer != null) {
            val kind = Triple(closer.char, closer.opens, closer.length % 3)
            val bottom = bottoms[kind] ?: 0
            var opener = closer.before.takeIf { closer!!.closes }
            while (opener != null && (opener.piece < bottom || !opener.opens(closer))) {
                opener = if (opener.piece < bottom) null else opener.before
            }
            if (opener == null) {
                if (closer.closes) {
                    bottoms[kind] = closer.piece
                    if (!closer.opens) remove(closer)
                }
                closer = closer.after
            } else {
                closer = pair(opener, closer)
            }
        }
    }

    /** Pairs two runs, and returns the next one that may close. */
    private fun pair(opener: Run, closer: Run): Run? {
        val count = if (opener.left >= 2 && closer.left >= 2) 2 else 1
        pairs += Styled(if (count == 2) Look.BOLD else Look.ITALIC, opener.piece, closer.piece)
        for (run in listOf(opener, closer)) {
            run.left -= count
            pieces[run.piece].text = run.char.toString().repeat(run.left)
        }
        opener.after = closer
        closer.before = opener
        if (opener.left == 0) remove(opener)
        if (closer.left > 0) return closer
        remove(closer)
        return closer.after
    }

    private fun remove(run: Run) {
        run.before?.after = run.after
        run.after?.before = run.before
    }

    private fun isSpace(point: Int) =
        point == SPACE || point in CONTROLS || Character.getType(point) == Character.SPACE_SEPARATOR.toInt()

    private fun isPunctuation(point: Int) = Character.getType(point) in PUNCTUATION

    private companion object {
        const val SPACE = ' '.code
        val CONTROLS = setOf('\t'.code, '\n'.code, '\u000C'.code, '\r'.code)
        val PUNCTUATION = setOf(
            Character.CONNECTOR_PUNCTUATION, Character.DASH_PUNCTUATION, Character.START_PUNCTUATION,
            Character.END_PUNCTUATION, Character.INITIAL_QUOTE_PUNCTUATION, Character.FINAL_QUOTE_PUNCTUATION,
            Character.OTHER_PUNCTUATION, Character.MATH_SYMBOL, Character.CURRENCY_SYMBOL, Character.MODIFIER_SYMBOL,
            Character.OTHER_SYMBOL,
        ).map { it.toInt() }.toSet()
    }
}
