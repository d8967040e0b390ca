package edgetransact.app

import android.app.Activity
import android.content.Intent
import android.os.Bundle
import android.view.WindowManager
import android.widget.TextView
import edgetransact.edge.BenchRun
import edgetransact.edge.android.Bench
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.CoroutineStart
import kotlinx.coroutines.Job
import kotlinx.coroutines.job
import kotlinx.coroutines.launch

/** Runs what `edge-transact bench --app` asks for, with the screen on, and ends. */
class BenchActivity : Activity() {
    private val scope = CoroutineScope(MainThread) // goes on until the last line is written
    private var bench: Job? = null
    private var wasShown = false

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        setContentView(R.layout.bench)
        Bars.avoid(findViewById(R.id.root))
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        start(intent, isNew = saved == null)
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        setIntent(intent)
        start(intent, isNew = true)
    }

    override fun onWindowFocusChanged(hasFocus: Boolean) {
        super.onWindowFocusChanged(hasFocus)
        wasShown = wasShown || hasFocus
    }

    /** Once another app or a dark screen is in its place, Android gives a benchmark slower cores, or none. */
    override fun onStop() {
        super.onStop()
        // Turning the screen on can stop an activity before it is seen.
        if (wasShown) bench?.cancel()
    }

    /** @param isNew whether the intent came now, not before Android ended and restored the app */
    private fun start(intent: Intent, isNew: Boolean) {
        val run = intent.getStringExtra(BenchRun.EXTRA_RUN)
        if (!isNew || run == null) {
            finish()
            return
        }
        findViewById<TextView>(R.id.status).text = getString(R.string.bench_running, run)
        bench = scope.launch(start = CoroutineStart.UNDISPATCHED) {
            try {
                Bench.run(applicationContext, run)
            } finally {
                if (bench === coroutineContext.job) finish() // not if the next one took its place
            }
        }
    }
}
