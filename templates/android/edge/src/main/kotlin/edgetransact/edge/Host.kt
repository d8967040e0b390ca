package edgetransact.edge

import kotlinx.coroutines.Job
import kotlinx.coroutines.sync.Mutex

/** What a model needs of the phone and the app. */
internal interface Host {
    /** Where weights are. */
    val weights: WeightStore

    /** Starts that failed. */
    val starts: Starts

    /** The app's models. */
    @Throws(EdgeException::class)
    fun models(): Models

    /** The phone as it is now. */
    fun phone(): Phone

    /** Makes engines; [progress] hears what they do while they load. */
    fun engines(progress: Progress): Engine.Factory

    /** Has [release] called when Android wants the app's memory; returns what ends that. */
    fun watch(release: () -> Unit): () -> Unit
}

/** The memory of the process, which has room for one model. */
internal object Memory {
    /** Whoever loads or frees a model has it. */
    val mutex = Mutex()

    /** The model that is in memory. Whoever has the mutex may use it. */
    var holder: Edge? = null

    /** A benchmark, which gives way to a model that is wanted. */
    @Volatile var benchmark: Job? = null
}
