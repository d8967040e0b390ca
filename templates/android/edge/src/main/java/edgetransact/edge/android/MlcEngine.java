package edgetransact.edge.android;

import android.content.Context;
import android.util.Log;
import edgetransact.edge.Choice;
import edgetransact.edge.Device;
import edgetransact.edge.Engine;
import edgetransact.edge.Progress;
import edgetransact.edge.Stage;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.tvm.Function;
import org.apache.tvm.Module;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * MLC-LLM's JSON FFI engine through tvm4j. Its functions and threads are those of MLC-LLM's own {@code
 * JSONFFIEngine.java} and {@code MLCEngine.kt}, and {@code abort}.
 */
public final class MlcEngine implements Engine {
    private static final String TAG = "MlcEngine";
    private static final String SYSTEM = "system://";
    private static final long END_MILLIS = 10_000;

    private final Callbacks callbacks;
    private final Programs programs;
    private final Progress progress;
    private final Module engine;
    private final Function respond;
    private final AtomicInteger running = new AtomicInteger(2);
    private final List<Thread> loops;
    private volatile boolean closed;
    private boolean released;

    private MlcEngine(Choice choice, Callbacks callbacks, Programs programs, Progress progress) {
        this.callbacks = callbacks;
        this.programs = programs;
        this.progress = progress;
        Function create = Function.getFunction("mlc.json_ffi.CreateJSONFFIEngine");
        if (create == null) {
            throw new IllegalStateException("libtvm4j_runtime_packed.so has no mlc.json_ffi.CreateJSONFFIEngine");
        }
        engine = create.invoke().asModule();
        org.apache.tvm.Device on = choice.device() == Device.OPENCL
                ? org.apache.tvm.Device.opencl()
                : org.apache.tvm.Device.cpu();
        respond = Function.convertFunc(arguments -> respond(arguments[0].asString()));
        invoke(function("init_background_engine").pushArg(on.deviceType).pushArg(on.deviceId).pushArg(respond));
        loops = Arrays.asList(
                start("run_background_loop", Thread.MAX_PRIORITY, choice.cores()), // loads models and runs them
                start("run_background_stream_back_loop", Thread.NORM_PRIORITY, Collections.emptyList()));
    }

    /**
     * Makes engines for the libraries that are linked into the app. On the CPU, there are no programs to keep.
     *
     * @param progress hears the stage {@code KERNELS}, while OpenCL programs are compiled or restored
     */
    public static Factory factory(Context context, Progress progress) {
        Context application = context.getApplicationContext();
        return (choice, callbacks) -> {
            try {
                Programs programs = choice.device() == Device.OPENCL ? new Programs(application) : null;
                return new MlcEngine(choice, callbacks, programs, progress);
            } catch (LinkageError error) {
                throw new IllegalStateException("the engine's library can't be loaded: " + error, error);
            }
        };
    }

    @Override
    public void reload(String engineConfigJson) {
        String library = library(engineConfigJson);
        try {
            System.loadLibrary(library); // of a module that brings the model; registers itself with TVM
        } catch (UnsatisfiedLinkError linked) {
            Log.i(TAG, library + " is linked into the engine, or isn't there", linked);
        }
        if (programs != null) {
            progress.at(Stage.KERNELS, 0, 1);
            programs.ready(library);
            progress.at(Stage.KERNELS, 1, 1);
        }
        if (closed) {
            throw new IllegalStateException("closed"); // nobody would load the model: the background loop has ended
        }
        progress.at(Stage.LOAD, 0, 1);
        call("reload", engineConfigJson);
    }

    @Override
    public void chatCompletion(String requestJson, String requestId) {
        call("chat_completion", requestJson, requestId);
    }

    @Override
    public void abort(String requestId) {
        call("abort", requestId);
    }

    @Override
    public void unload() {
        call("unload");
    }

    /** Ends both loops and waits for them, since the last to end frees the engine. Both may have ended on their own. */
    @Override
    public void close() {
        closed = true;
        if (running.get() > 0) {
            try {
                call("exit_background_loop");
            } catch (RuntimeException | Error error) {
                Log.i(TAG, "the loops ended meanwhile, or never will", error);
            }
        }
        boolean interrupted = Thread.interrupted();
        for (Thread loop : loops) {
            try {
                loop.join(END_MILLIS);
            } catch (InterruptedException superseded) {
                interrupted = true;
            }
        }
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private static String library(String engineConfigJson) {
        try {
            return new JSONObject(engineConfigJson).getString("model_lib").substring(SYSTEM.length());
        } catch (JSONException error) {
            throw new IllegalArgumentException(error);
        }
    }

    private void call(String name, String... arguments) {
        Function function = function(name);
        for (String argument : arguments) {
            function.pushArg(argument);
        }
        invoke(function);
    }

    /** Calls a function once. It keeps the engine in memory until it is released. */
    private static void invoke(Function function) {
        try {
            function.invoke();
        } finally {
            function.release();
        }
    }

    private synchronized Function function(String name) {
        if (released) {
            throw new IllegalStateException("closed");
        }
        return engine.getFunction(name);
    }

    private Thread start(String loop, int priority, List<Integer> cores) {
        Thread thread = new Thread(() -> run(loop, cores), loop);
        thread.setPriority(priority);
        thread.setDaemon(true);
        thread.start();
        return thread;
    }

    private void run(String loop, List<Integer> cores) {
        try {
            if (!cores.isEmpty()) {
                Cores.use(cores);
            }
            call(loop);
        } catch (RuntimeException | Error error) {
            Log.e(TAG, loop, error);
            if (!closed) {
                callbacks.died(String.valueOf(error.getMessage()));
            }
        }
        if (running.decrementAndGet() == 0) {
            release();
        }
    }

    /** Frees what an engine that failed still holds: Java's garbage collector doesn't know how much that is. */
    private synchronized void release() {
        released = true;
        engine.release();
        respond.release();
    }

    /** An exception must not leave this method: JNI goes on with it pending, and ends the app. */
    private int respond(String json) {
        try {
            callbacks.responses(json);
        } catch (RuntimeException | Error error) {
            Log.e(TAG, "responses", error);
            callbacks.died(error.toString());
        }
        return 0;
    }
}
