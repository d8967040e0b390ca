package edgetransact.app

import android.os.Handler
import android.os.Looper
import java.util.concurrent.Executor
import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.asCoroutineDispatcher

private val main = Handler(Looper.getMainLooper())

/** Runs coroutines on the main thread. `Dispatchers.Main` of kotlinx-coroutines-android does the same. */
val MainThread: CoroutineDispatcher = Executor { main.post(it) }.asCoroutineDispatcher()
