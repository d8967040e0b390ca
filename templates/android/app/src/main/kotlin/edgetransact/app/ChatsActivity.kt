package edgetransact.app

import android.app.Activity
import android.app.AlertDialog
import android.content.Intent
import android.os.Bundle
import android.text.format.DateUtils
import android.view.LayoutInflater
import android.view.View
import android.view.ViewGroup
import android.widget.BaseAdapter
import android.widget.ListView
import android.widget.TextView
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.cancel
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext

/** The chats that were kept. Ends with the one that is chosen. */
class ChatsActivity : Activity() {
    private val scope = CoroutineScope(MainThread)
    private val chats = Chats()

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        setContentView(R.layout.chats)
        Bars.avoid(findViewById(R.id.root))
        val list = findViewById<ListView>(R.id.chats)
        list.adapter = chats
        list.setOnItemClickListener { _, _, position, _ ->
            setResult(RESULT_OK, Intent().putExtra(CHAT, chats.getItem(position).id))
            finish()
        }
        show()
    }

    override fun onDestroy() {
        super.onDestroy()
        scope.cancel()
    }

    /** @param delete the chat to delete first */
    private fun show(delete: SavedChat? = null) {
        scope.launch {
            chats.all = withContext(Dispatchers.IO) {
                val store = chatStore(applicationContext)
                delete?.let { store.delete(it.id) }
                store.list()
            }
            chats.notifyDataSetChanged()
            findViewById<ListView>(R.id.chats).emptyView = findViewById(R.id.empty) // not before it is known
        }
    }

    private fun ask(chat: SavedChat) {
        AlertDialog.Builder(this)
            .setMessage(getString(R.string.delete_chat, chat.title))
            .setPositiveButton(R.string.delete) { _, _ -> show(delete = chat) }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private inner class Chats : BaseAdapter() {
        var all = emptyList<SavedChat>()

        override fun getCount(): Int = all.size

        override fun getItem(position: Int): SavedChat = all[position]

        override fun getItemId(position: Int): Long = position.toLong()

        override fun getView(position: Int, recycled: View?, parent: ViewGroup): View {
            val chat = all[position]
            val row = recycled ?: LayoutInflater.from(this@ChatsActivity).inflate(R.layout.chats_row, parent, false)
            row.findViewById<TextView>(R.id.title).text = chat.title
            row.findViewById<TextView>(R.id.changed).text = DateUtils.getRelativeTimeSpanString(chat.changedMillis)
            val delete = row.findViewById<View>(R.id.delete)
            delete.contentDescription = getString(R.string.delete_chat, chat.title)
            delete.setOnClickListener { ask(chat) }
            return row
        }
    }

    companion object {
        private const val CHAT = "chat"

        /** The chat that was chosen. */
        fun chosen(result: Intent): String? = result.getStringExtra(CHAT)
    }
}
