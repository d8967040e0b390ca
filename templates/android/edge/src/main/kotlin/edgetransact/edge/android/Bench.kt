package edgetransact.edge.android

import android.content.Context
import android.os.Process
import android.util.Log
import edgetransact.edge.BenchRun
import edgetransact.edge.EdgeException
import edgetransact.edge.Memory
import java.io.IOException
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.job
import kotlinx.coroutines.runInterruptible
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext

/** What `edge-transact bench --app` has an app do. */
public object Bench {
    private const val TAG = "Bench"

    /**
     * Frees the model that is in memory, and runs a benchmark in its place. Suspends until its last line is written.
     * Cancelling ends it, as does loading a model. If its last line can't be written, this ends the process, because the
     * computer waits for that line as long as there is a process.
     *
     * @param run its name: the intent's extra [BenchRun.EXTRA_RUN].
     */
    public suspend fun run(context: Context, run: String): Unit = coroutineScope {
        Memory.benchmark?.cancel()
        Memory.benchmark = coroutineContext.job
        val files = AppFiles(context)
        var begun = false
        try {
            Memory.mutex.withLock {
                Memory.holder?.free()
                runInterruptible(Dispatchers.IO) {
                    begun = true
                    guard(run) {
                        val engines = MlcEngine.factory(context) { _, _, _ -> }
                        BenchRun(files.models(), PhoneFacts.now(context), files.weights(), files.scratch(), engines)
                            .run(files.bench(), run)
                    }
                }
            }
        } catch (left: CancellationException) {
            if (!begun) {
                withContext(NonCancellable + Dispatchers.IO) { guard(run) { BenchRun.skip(files.bench(), run) } }
            }
            throw left
        }
    }

    private fun guard(run: String, write: () -> Unit) {
        try {
            write()
        } catch (error: IllegalArgumentException) {
            Log.e(TAG, run, error) // there is no other place to say it
        } catch (error: EdgeException) {
            end(run, error)
        } catch (error: IOException) {
            end(run, error)
        } catch (error: Error) {
            end(run, error)
        }
    }

    private fun end(run: String, error: Throwable) {
        Log.e(TAG, run, error)
        Process.killProcess(Process.myPid())
    }
}
