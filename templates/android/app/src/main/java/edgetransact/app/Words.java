package edgetransact.app;

import android.content.Context;
import android.content.res.Resources;
import android.text.format.Formatter;
import edgetransact.edge.Device;
import edgetransact.edge.EdgeException;
import edgetransact.edge.Finish;
import edgetransact.edge.Model;
import edgetransact.edge.Session;
import edgetransact.edge.Stage;
import edgetransact.edge.Usage;
import edgetransact.edge.android.ModelHolder;

/** What the app says about the things of the library, from {@code strings.xml}. */
final class Words {
    private final Context context;
    private final Resources resources;

    Words(Context context) {
        this.context = context;
        resources = context.getResources();
    }

    /** What went wrong, and what to do. */
    String of(EdgeException error, Model model) {
        switch (error.code()) {
            case MODELS_INVALID:
                return resources.getString(R.string.error_models_invalid, error.detail());
            case NO_LIBRARY:
                return resources.getString(R.string.error_no_library, error.detail());
            case GPU_FAILED:
                return resources.getString(R.string.error_gpu_failed);
            case LACKED_MEMORY:
                return resources.getString(R.string.error_lacked_memory, size(error.needed()));
            case TOO_LITTLE_MEMORY:
                return resources.getString(
                        R.string.error_too_little_memory, size(error.needed()), size(error.available()));
            case WEIGHTS_MISSING:
                if (model != null && model.weights() == Model.Weights.INSTALL) {
                    return resources.getString(R.string.error_weights_not_installed, error.detail());
                }
                if (model != null && model.weights() == Model.Weights.FAST_FOLLOW) {
                    return resources.getString(R.string.error_weights_not_delivered, error.detail());
                }
                return resources.getString(R.string.error_weights_missing, error.detail());
            case WEIGHTS_DAMAGED:
                return resources.getString(R.string.error_weights_damaged, error.detail());
            case STORAGE_FULL:
                return resources.getString(R.string.error_storage_full, size(error.needed()), size(error.available()));
            case STORAGE_FAILED:
                return resources.getString(R.string.error_storage_failed, error.detail());
            case DOWNLOAD_FAILED:
                return resources.getString(R.string.error_download_failed, error.detail());
            case CONTEXT_FULL:
                return resources.getString(R.string.error_context_full);
            case ENGINE_FAILED:
                return resources.getString(R.string.error_engine_failed, error.detail());
        }
        throw new AssertionError(error.code());
    }

    /** What is being done before the model can answer. */
    String of(Stage stage) {
        switch (stage) {
            case COPY:
                return resources.getString(R.string.stage_copy);
            case DOWNLOAD:
                return resources.getString(R.string.stage_download);
            case VERIFY:
                return resources.getString(R.string.stage_verify);
            case LOAD:
                return resources.getString(R.string.stage_load);
            case KERNELS:
                return resources.getString(R.string.stage_kernels);
        }
        throw new AssertionError(stage);
    }

    /** How far that is: bytes, or seconds for what doesn't tell. */
    String detail(ModelHolder.Step step) {
        return step.stage() == Stage.LOAD || step.stage() == Stage.KERNELS
                ? resources.getString(R.string.progress_seconds, step.seconds())
                : resources.getString(R.string.progress_bytes, size(step.done()), size(step.total()));
    }

    /** What the model runs on, and why. */
    String of(Session session) {
        if (session.choice().device() == Device.OPENCL) {
            return resources.getString(R.string.runs_on_gpu);
        }
        switch (session.choice().reason()) {
            case GPU_FAILED:
                return resources.getString(R.string.runs_on_cpu_gpu_failed);
            case GPU_WRONG:
                return resources.getString(R.string.runs_on_cpu_gpu_wrong);
            case NO_OPENCL:
                return resources.getString(R.string.runs_on_cpu_no_opencl);
            case NO_LIBRARY:
                return resources.getString(R.string.runs_on_cpu_no_library);
            default:
                return resources.getString(R.string.runs_on_cpu);
        }
    }

    /** What stands under an answer: why it ended, if that is worth saying, and how fast it was; or why there is none. */
    String under(Chat.Bubble answer, Model model) {
        if (answer.error != null) {
            return of(answer.error, model);
        }
        if (answer.finish == Finish.STOPPED) {
            return resources.getString(R.string.ended_by_stop);
        }
        String speed = speed(answer.usage);
        return answer.finish == Finish.LENGTH ? resources.getString(R.string.ended_at_length, speed) : speed;
    }

    private String speed(Usage usage) {
        if (usage == null || usage.decodeTokensPerSecond() == null) {
            return "";
        }
        int tokens = usage.completionTokens();
        return resources.getQuantityString(R.plurals.speed, tokens, tokens, usage.decodeTokensPerSecond());
    }

    private String size(long bytes) {
        return Formatter.formatShortFileSize(context, bytes);
    }
}
