package edgetransact.edge.android

import android.content.ComponentCallbacks2
import android.content.Context
import android.content.res.Configuration
import edgetransact.edge.Engine
import edgetransact.edge.Host
import edgetransact.edge.Models
import edgetransact.edge.Phone
import edgetransact.edge.Progress
import edgetransact.edge.Starts
import edgetransact.edge.WeightStore

/** What Android and the app's files say. */
internal class AndroidHost(context: Context) : Host {
    private val context = context.applicationContext
    private val files = AppFiles(context)

    override val weights: WeightStore
        get() = files.weights()

    override val starts: Starts
        get() = files.starts()

    override fun models(): Models = files.models()

    override fun phone(): Phone = PhoneFacts.now(context)

    override fun engines(progress: Progress): Engine.Factory = MlcEngine.factory(context, progress)

    override fun watch(release: () -> Unit): () -> Unit {
        val callbacks =
            object : ComponentCallbacks2 {
                override fun onTrimMemory(level: Int) {
                    // The app is in the background, and among those that Android ends for their memory.
                    if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) release()
                }

                override fun onConfigurationChanged(configuration: Configuration) {}

                @Suppress("OVERRIDE_DEPRECATION") override fun onLowMemory() {}
            }
        context.registerComponentCallbacks(callbacks)
        return { context.unregisterComponentCallbacks(callbacks) }
    }
}
