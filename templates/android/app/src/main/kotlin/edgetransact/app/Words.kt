package edgetransact.app

import android.content.Context
import android.text.format.Formatter
import edgetransact.edge.Choice
import edgetransact.edge.Device
import edgetransact.edge.EdgeException
import edgetransact.edge.EdgeException.Code
import edgetransact.edge.Finish
import edgetransact.edge.Model
import edgetransact.edge.Stage

/** What the app says about the things of the library, from `strings.xml`. */
class Words(private val context: Context) {
    private val resources = context.resources

    /** What went wrong, and what to do. */
    fun of(error: EdgeException, model: Model?): String = when (error.code()) {
        Code.MODELS_INVALID -> resources.getString(R.string.error_models_invalid, error.detail())
        Code.NO_LIBRARY -> if (model?.library(Device.CPU) == null) {
            resources.getString(R.string.error_not_for_cpu, error.detail())
        } else {
            resources.getString(R.string.error_not_for_gpu, error.detail())
        }
        Code.GPU_FAILED -> resources.getString(R.string.error_gpu_failed)
        Code.LACKED_MEMORY -> resources.getString(R.string.error_lacked_memory, size(error.needed()))
        Code.TOO_LITTLE_MEMORY ->
            resources.getString(R.string.error_too_little_memory, size(error.needed()), size(error.available()))
        Code.WEIGHTS_MISSING -> when (model?.weights()) {
            Model.Weights.INSTALL -> resources.getString(R.string.error_weights_not_installed, error.detail())
            Model.Weights.FAST_FOLLOW -> resources.getString(R.string.error_weights_not_delivered, error.detail())
            else -> resources.getString(R.string.error_weights_missing, error.detail())
        }
        Code.WEIGHTS_DAMAGED -> resources.getString(R.string.error_weights_damaged, error.detail())
        Code.STORAGE_FULL ->
            resources.getString(R.string.error_storage_full, size(error.needed()), size(error.available()))
        Code.STORAGE_FAILED -> resources.getString(R.string.error_storage_failed, error.detail())
        Code.DOWNLOAD_FAILED -> resources.getString(R.string.error_download_failed, error.detail())
        Code.CONTEXT_FULL -> resources.getString(R.string.error_context_full)
        Code.ENGINE_FAILED -> resources.getString(R.string.error_engine_failed, error.detail())
    }

    /** How it is with the model and the answer: a change is read out. */
    fun of(screen: Screen): String = when (val status = screen.status) {
        Status.Starting -> ""
        Status.Unloaded -> resources.getString(R.string.unloaded)
        is Status.Loading -> of(status.stage)
        is Status.Failed -> of(status.error, screen.model)
        is Status.Ready -> when {
            screen.answering -> resources.getString(R.string.answering)
            screen.answered == null -> of(status.choice)
            screen.answered.failure != null -> screen.answered.failure
            screen.answered.finish == Finish.STOPPED -> resources.getString(R.string.ended_by_stop)
            screen.answered.finish == Finish.LENGTH -> cutOff(screen.answered)
            else -> resources.getString(R.string.answered)
        }
    }

    /** What else there is to know, which nobody reads out. */
    fun detail(screen: Screen): String {
        val status = screen.status
        if (status is Status.Loading) return progress(status)
        if (screen.unkept) return resources.getString(R.string.unkept)
        if (status !is Status.Ready || screen.memoryBytes == null) return ""
        val memory = size(screen.memoryBytes)
        val gpu = status.choice.device() == Device.OPENCL
        return if (gpu) resources.getString(R.string.detail_gpu, memory) else resources.getString(R.string.detail_cpu, memory)
    }

    /** What stands under an answer: why it ended, if that is worth saying, and how fast it was; or why there is none. */
    fun under(answer: Entry): String {
        val speed = if (answer.tokens == null || answer.tokensPerSecond == null) "" else speed(answer)
        return when {
            answer.failure != null -> answer.failure
            answer.finish == Finish.STOPPED -> "${resources.getString(R.string.ended_by_stop)} $speed".trim()
            answer.finish == Finish.LENGTH -> "${cutOff(answer)} $speed".trim()
            else -> speed
        }
    }

    private fun cutOff(answer: Entry): String =
        if (answer.limit == null) {
            resources.getString(R.string.ended_at_length)
        } else {
            resources.getString(R.string.ended_at_limit, answer.limit)
        }

    private fun speed(answer: Entry): String {
        val tokens = answer.tokens ?: 0
        val first = answer.firstTokenS ?: 0.0
        return resources.getQuantityString(R.plurals.speed, tokens, tokens, answer.tokensPerSecond, first)
    }

    private fun of(stage: Stage): String = resources.getString(
        when (stage) {
            Stage.COPY -> R.string.stage_copy
            Stage.DOWNLOAD -> R.string.stage_download
            Stage.VERIFY -> R.string.stage_verify
            Stage.LOAD -> R.string.stage_load
            Stage.KERNELS -> R.string.stage_kernels
        },
    )

    /** How far that is: bytes, or seconds for what doesn't tell. */
    private fun progress(loading: Status.Loading): String =
        if (loading.counted) {
            resources.getString(R.string.progress_bytes, size(loading.done), size(loading.total))
        } else {
            resources.getString(R.string.progress_seconds, loading.seconds)
        }

    /** What the model runs on, and why. */
    private fun of(choice: Choice): String = resources.getString(
        when {
            choice.device() == Device.OPENCL -> R.string.runs_on_gpu
            choice.reason() == Choice.Reason.GPU_FAILED -> R.string.runs_on_cpu_gpu_failed
            choice.reason() == Choice.Reason.GPU_WRONG -> R.string.runs_on_cpu_gpu_wrong
            choice.reason() == Choice.Reason.NO_OPENCL -> R.string.runs_on_cpu_no_opencl
            choice.reason() == Choice.Reason.NO_LIBRARY -> R.string.runs_on_cpu_no_library
            else -> R.string.runs_on_cpu
        },
    )

    private fun size(bytes: Long): String = Formatter.formatShortFileSize(context, bytes)
}
