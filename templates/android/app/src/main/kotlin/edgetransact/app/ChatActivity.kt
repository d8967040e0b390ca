package edgetransact.app

import android.app.Activity
import android.content.ClipData
import android.content.ClipboardManager
import android.content.Intent
import android.os.Build
import android.os.Bundle
import android.os.Debug
import android.os.Handler
import android.os.Looper
import android.view.View
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.EditText
import android.widget.ImageButton
import android.widget.ListView
import android.widget.ProgressBar
import android.widget.Spinner
import android.widget.TextView
import android.widget.Toast
import edgetransact.edge.Choice
import edgetransact.edge.EdgeException.Code
import kotlin.coroutines.resume
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.cancel
import kotlinx.coroutines.launch
import kotlinx.coroutines.suspendCancellableCoroutine

/** A chat. What it shows is in [ChatModel], which outlives it when the phone is turned. */
class ChatActivity : Activity() {
    private val main = Handler(Looper.getMainLooper())
    private val scope = CoroutineScope(MainThread)
    private val showing = Runnable { show() }
    private lateinit var model: ChatModel
    private lateinit var words: Words
    private lateinit var messages: MessageAdapter
    private var watching: Job? = null
    private var listed = emptyList<String>() // the names of models in the list

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        setContentView(R.layout.chat)
        Bars.avoid(findViewById(R.id.root))
        words = Words(this)
        val kept = lastNonConfigurationInstance as ChatModel?
        model = kept ?: newModel().also { it.start(saved?.getString(CHAT)) }
        messages = MessageAdapter(this, words, ::copy) { model.regenerate() }
        findViewById<ListView>(R.id.messages).adapter = messages
        findViewById<ListView>(R.id.messages).emptyView = findViewById(R.id.empty)
        onClick(R.id.send) { send() }
        onClick(R.id.stop) { model.stop() }
        onClick(R.id.new_chat) { model.open(null) }
        onClick(R.id.chats) { startActivityForResult(Intent(this, ChatsActivity::class.java), CHATS) }
        onClick(R.id.settings) { startActivityForResult(SettingsActivity.intent(this, model.settings), SETTINGS) }
        onClick(R.id.retry) { model.load() }
        onClick(R.id.anyway) { model.load(anyway = true) }
        onClick(R.id.gpu) { model.retryGpu() }
    }

    override fun onStart() {
        super.onStart()
        val root = findViewById<View>(R.id.root)
        watching = scope.launch { model.screen.eachFrame({ frame(root) }) { show() } }
    }

    override fun onResume() {
        super.onResume()
        model.resume()
    }

    override fun onPause() {
        super.onPause()
        model.pause()
    }

    override fun onStop() {
        super.onStop()
        watching?.cancel()
        main.removeCallbacks(showing)
    }

    override fun onDestroy() {
        super.onDestroy()
        scope.cancel()
        if (!isChangingConfigurations) model.close()
    }

    override fun onRetainNonConfigurationInstance(): Any = model

    override fun onSaveInstanceState(state: Bundle) {
        super.onSaveInstanceState(state)
        state.putString(CHAT, model.screen.value.chat.id)
    }

    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        if (request == CHATS && result == RESULT_OK) data?.let { model.open(ChatsActivity.chosen(it)) }
        if (request == SETTINGS && result == RESULT_OK) data?.let { model.change(SettingsActivity.result(it)) }
    }

    private fun newModel(): ChatModel {
        val words = Words(applicationContext)
        return ChatModel(applicationContext, MainThread, words::of) { Debug.getPss() * KIB }
    }

    private suspend fun frame(view: View) = suspendCancellableCoroutine { waiting ->
        val next = Runnable { waiting.resume(Unit) }
        view.postOnAnimation(next)
        waiting.invokeOnCancellation { view.removeCallbacks(next) }
    }

    private fun onClick(id: Int, action: () -> Unit) = findViewById<View>(id).setOnClickListener { action() }

    private fun send() {
        val input = findViewById<EditText>(R.id.input)
        val text = input.text.toString().trim()
        if (text.isNotEmpty() && model.send(text)) {
            input.setText("")
        }
    }

    private fun copy(text: String) {
        getSystemService(ClipboardManager::class.java).setPrimaryClip(ClipData.newPlainText(null, text))
        // Newer phones say it themselves.
        if (Build.VERSION.SDK_INT < Build.VERSION_CODES.TIRAMISU) {
            Toast.makeText(this, R.string.copied, Toast.LENGTH_SHORT).show()
        }
    }

    private fun show() {
        val screen = model.screen.value
        val status = screen.status
        val loading = status as? Status.Loading
        val ready = status is Status.Ready
        val code = (status as? Status.Failed)?.error?.code()
        showModels(screen)
        setText(R.id.status, words.of(screen))
        setText(R.id.detail, words.detail(screen))
        show(R.id.detail, findViewById<TextView>(R.id.detail).text.isNotEmpty())
        showProgress(loading)
        show(R.id.retry, code != null && screen.model != null)
        show(R.id.anyway, code == Code.TOO_LITTLE_MEMORY || code == Code.LACKED_MEMORY)
        val gaveWay = (status as? Status.Ready)?.choice?.reason() == Choice.Reason.GPU_FAILED
        show(R.id.gpu, gaveWay || code == Code.GPU_FAILED)
        setText(R.id.empty, getString(if (ready) R.string.empty_ready else R.string.empty_not_ready))
        show(R.id.send, !screen.answering)
        show(R.id.stop, screen.answering)
        findViewById<ImageButton>(R.id.send).isEnabled = ready || status == Status.Unloaded
        findViewById<ImageButton>(R.id.new_chat).isEnabled = screen.chat.entries.isNotEmpty()
        messages.show(screen.chat.entries, ready && !screen.answering, findViewById(R.id.messages))
        main.removeCallbacks(showing)
        if (loading != null) main.postDelayed(showing, TICK_MILLIS) // the seconds that it takes change without a call
    }

    private fun showProgress(loading: Status.Loading?) {
        val progress = findViewById<ProgressBar>(R.id.progress)
        // Android may freeze an app whose screen went dark, and the first start takes long.
        progress.keepScreenOn = loading != null
        progress.visibility = if (loading != null) View.VISIBLE else View.GONE
        if (loading != null) {
            progress.isIndeterminate = !loading.counted
            progress.max = PERMILLE
            progress.progress = (PERMILLE * loading.done / maxOf(1, loading.total)).toInt()
        }
    }

    private fun showModels(screen: Screen) {
        val choice = findViewById<Spinner>(R.id.choice)
        val names = screen.models.map { it.name() }
        if (names != listed) {
            listed = names
            val adapter = ArrayAdapter(this, android.R.layout.simple_spinner_item, names)
            adapter.setDropDownViewResource(android.R.layout.simple_spinner_dropdown_item)
            choice.adapter = adapter
            choice.onItemSelectedListener = object : AdapterView.OnItemSelectedListener {
                override fun onItemSelected(parent: AdapterView<*>?, view: View?, position: Int, id: Long) {
                    model.choose(model.screen.value.models[position])
                }

                override fun onNothingSelected(parent: AdapterView<*>?) = Unit
            }
            choice.setSelection(maxOf(0, screen.models.indexOfFirst { it.id() == screen.model?.id() }))
        }
    }

    private fun show(id: Int, shown: Boolean) {
        findViewById<View>(id).visibility = if (shown) View.VISIBLE else View.GONE
    }

    /** Only a change is set, so that screen readers don't repeat it. */
    private fun setText(id: Int, text: String) {
        val view = findViewById<TextView>(id)
        if (!text.contentEquals(view.text)) view.text = text
    }

    private companion object {
        const val CHAT = "chat"
        const val CHATS = 1
        const val SETTINGS = 2
        const val TICK_MILLIS = 250L
        const val PERMILLE = 1000
        const val KIB = 1024L
    }
}
