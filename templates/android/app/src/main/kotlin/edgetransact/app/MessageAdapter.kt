package edgetransact.app

import android.content.Context
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.ListView
import android.widget.TextView
import edgetransact.edge.Reasoning

/**
 * The messages of a chat as rows of a list.
 *
 * @param copy is called with a text that its user wants to have elsewhere, and [again] for another last answer
 */
class MessageAdapter(
    private val context: Context,
    private val words: Words,
    private val copy: (String) -> Unit,
    private val again: () -> Unit,
) : BaseAdapter() {
    private var entries = emptyList<Entry>()
    private var ready = false

    /** Shows entries in a list, whose adapter this is. Of an answer that grows, its own row alone is changed. */
    fun show(entries: List<Entry>, ready: Boolean, list: ListView) {
        val before = this.entries
        val last = entries.lastIndex
        val rows = entries.size == before.size && ready == this.ready
        val grows = rows && last >= 0 && entries[last].open && entries.subList(0, last) == before.subList(0, last)
        this.entries = entries
        this.ready = ready
        if (grows) {
            list.getChildAt(last - list.firstVisiblePosition)?.let { grow(it, list) }
        } else if (!rows || entries != before) {
            notifyDataSetChanged()
            if (entries.size != before.size) list.setSelection(last)
        }
    }

    /** The list goes along with the last row, if its end was seen. */
    private fun grow(row: View, list: ListView) {
        val wasSeen = row.bottom <= list.height - list.paddingBottom
        bind(row, entries.lastIndex)
        if (wasSeen) {
            list.post { list.scrollListBy(maxOf(0, row.bottom - (list.height - list.paddingBottom))) }
        }
    }

    override fun getCount(): Int = entries.size

    override fun getItem(position: Int): Entry = entries[position]

    override fun getItemId(position: Int): Long = position.toLong()

    override fun getViewTypeCount(): Int = 2

    override fun getItemViewType(position: Int): Int = if (entries[position].mine) 0 else 1

    override fun getView(position: Int, recycled: View?, parent: ViewGroup): View {
        val layout = if (entries[position].mine) R.layout.message_mine else R.layout.message_model
        val row = recycled ?: LayoutInflater.from(context).inflate(layout, parent, false)
        bind(row, position)
        return row
    }

    private fun bind(row: View, position: Int) {
        val entry = entries[position]
        val text = row.findViewById<TextView>(R.id.text)
        if (entry.mine) {
            text.text = entry.text
            text.contentDescription = context.getString(R.string.said_by_you, entry.text)
            return
        }
        val shown = Markdown.parse(Reasoning.shown(entry.text))
        text.text = shown.spanned(context.resources)
        text.contentDescription = context.getString(R.string.said_by_model, shown.text)
        text.visibility = visible(shown.text.isNotEmpty())
        row.findViewById<View>(R.id.waiting).visibility = visible(entry.open && shown.text.isEmpty())
        val note = row.findViewById<TextView>(R.id.note)
        note.text = words.under(entry)
        note.visibility = visible(note.text.isNotEmpty())
        val copies = row.findViewById<View>(R.id.copy)
        copies.visibility = visible(entry.copyable.isNotEmpty())
        copies.setOnClickListener { copy(entry.copyable) }
        val repeats = row.findViewById<View>(R.id.again)
        repeats.visibility = visible(!entry.open && ready && position == entries.lastIndex)
        repeats.setOnClickListener { again() }
    }

    private fun visible(shown: Boolean) = if (shown) View.VISIBLE else View.GONE
}
