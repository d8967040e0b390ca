package edgetransact.edge.android;

import android.content.Context;
import android.os.Handler;
import android.os.Looper;
import android.os.Process;
import android.os.SystemClock;
import android.util.Log;
import edgetransact.edge.BenchRun;
import edgetransact.edge.Choice;
import edgetransact.edge.EdgeException;
import edgetransact.edge.Engine;
import edgetransact.edge.Model;
import edgetransact.edge.Phone;
import edgetransact.edge.Preference;
import edgetransact.edge.Progress;
import edgetransact.edge.Session;
import edgetransact.edge.Stage;
import edgetransact.edge.Starts;
import java.io.IOException;
import java.nio.file.Path;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.FutureTask;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * The process's one loaded model. It outlives activities, so that rotating the phone doesn't load a model again.
 *
 * <p>Its methods are for the main thread, and it calls its observer there. Loading and freeing happen on a thread of
 * its own.
 */
public final class ModelHolder {
    /** How far loading is. Immutable. */
    public static final class Step {
        private final Stage stage;
        private final long done;
        private final long total;
        private final long startMillis;

        private Step(Stage stage, long done, long total, long startMillis) {
            this.stage = stage;
            this.done = done;
            this.total = total;
            this.startMillis = startMillis;
        }

        /** What is being done. */
        public Stage stage() {
            return stage;
        }

        /** What is done of {@link #total}. */
        public long done() {
            return done;
        }

        /** Bytes of {@code COPY} and {@code VERIFY}; 1 for other stages, which don't tell how far they are. */
        public long total() {
            return total;
        }

        /** Seconds since the stage began. */
        public long seconds() {
            return (SystemClock.elapsedRealtime() - startMillis) / 1000;
        }
    }

    private static ModelHolder instance;

    private final Context context;
    private final AppFiles files;
    private final ExecutorService worker = Executors.newSingleThreadExecutor(task -> new Thread(task, "edge-model"));
    private final Handler main = new Handler(Looper.getMainLooper());

    // The main thread's.
    private Runnable observer = () -> {};
    private Model model;
    private Session session;
    private EdgeException error;
    private Future<?> work;
    private volatile int loads;

    // Written by the worker.
    private volatile Step step;
    private Session held;

    private ModelHolder(Context context) {
        this.context = context.getApplicationContext();
        files = new AppFiles(context);
    }

    /** The process's holder. */
    public static synchronized ModelHolder of(Context context) {
        if (instance == null) {
            instance = new ModelHolder(context);
        }
        return instance;
    }

    /** Calls {@code observer} after each change but those of {@link #step}; only the last one given is called. */
    public void observe(Runnable observer) {
        this.observer = observer;
    }

    /** The model that was chosen, or null. */
    public Model model() {
        return model;
    }

    /** The model's session, or null while it isn't loaded. */
    public Session session() {
        return session;
    }

    /** Why it isn't loaded, or null. */
    public EdgeException error() {
        return error;
    }

    /** How far loading is, or null. Changes without a call of the observer. */
    public Step step() {
        return step;
    }

    /** Frees the present model, and loads another or the same one, on the GPU if that is known to work. */
    public void load(Model wanted) {
        load(wanted, Preference.AUTO);
    }

    /** Tries the GPU again after it failed. */
    public void retryGpu() {
        Model wanted = model;
        worker.execute(() -> files.starts().forget(wanted));
        load(wanted);
    }

    /** Frees the present model, and loads another or the same one. */
    public void load(Model wanted, Preference preference) {
        load(wanted, preference, false);
    }

    /** Loads the chosen model although memory may not suffice, or didn't once: the way on from these errors. */
    public void loadAnyway() {
        load(model, Preference.AUTO, true);
    }

    private void load(Model wanted, Preference preference, boolean anyway) {
        submit(wanted, progress -> {
            Phone now = PhoneFacts.now(context);
            Phone phone = anyway ? now.ignoringMemory() : now;
            Starts starts = files.starts();
            Choice.of(wanted, phone, preference, starts); // before weights are copied
            files.weights().keepOnly(files.models());
            Path weights = files.weights().prepare(wanted, progress);
            Engine.Factory engines = MlcEngine.factory(context, progress);
            held = Session.start(wanted, phone, preference, starts, weights, engines, progress);
        });
    }

    /** Reports that the session's engine has failed. {@link #load} starts again. */
    public void fail(EdgeException reason) {
        finish(null, reason);
    }

    /**
     * Frees the present model, and runs a benchmark in its place. If its last line can't be written, this ends the
     * process, because the computer waits for that line as long as there is a process.
     *
     * @return the benchmark, which can be cancelled
     */
    public Future<?> bench(String run, Runnable done) {
        return submit(null, progress -> {
            try {
                Phone phone = PhoneFacts.now(context);
                Engine.Factory engines = MlcEngine.factory(context, progress);
                new BenchRun(files.models(), phone, files.weights(), files.scratch(), engines).run(files.bench(), run);
            } catch (IllegalArgumentException error) {
                Log.e("ModelHolder", "benchmark " + run, error); // there is no other place to say it
            } catch (EdgeException | IOException | Error error) {
                Log.e("ModelHolder", "benchmark " + run, error);
                Process.killProcess(Process.myPid());
            } finally {
                main.post(done);
            }
        }, () -> {
            try {
                BenchRun.skip(files.bench(), run);
            } catch (IOException error) {
                Log.e("ModelHolder", "benchmark " + run, error);
                Process.killProcess(Process.myPid());
            } finally {
                main.post(done);
            }
        });
    }

    private interface Task {
        void run(Progress progress) throws EdgeException, InterruptedException;
    }

    private Future<?> submit(Model wanted, Task task) {
        return submit(wanted, task, () -> {});
    }

    /** @param skipped runs in the task's place if it is cancelled before it begins */
    private Future<?> submit(Model wanted, Task task, Runnable skipped) {
        if (work != null) {
            work.cancel(true);
        }
        int mine = ++loads;
        model = wanted;
        AtomicBoolean begun = new AtomicBoolean();
        FutureTask<Void> fresh = new FutureTask<Void>(() -> {
            if (begun.compareAndSet(false, true)) {
                work(task, mine);
            }
        }, null) {
            @Override
            protected void done() {
                if (begun.compareAndSet(false, true)) {
                    worker.execute(skipped);
                }
            }
        };
        worker.execute(fresh);
        work = fresh;
        finish(null, null);
        return fresh;
    }

    private void work(Task task, int mine) {
        EdgeException reason = null;
        try {
            Session last = held;
            held = null;
            if (last != null) {
                last.close();
            }
            task.run((stage, done, total) -> progress(mine, stage, done, total));
        } catch (EdgeException failed) {
            reason = failed;
        } catch (InterruptedException superseded) {
            return;
        } catch (RuntimeException | Error bug) {
            Log.e("ModelHolder", "load", bug);
            reason = EdgeException.unexpected(bug);
        } finally {
            step = null;
        }
        Session loaded = held;
        EdgeException failed = reason;
        main.post(() -> {
            if (mine == loads) {
                finish(loaded, failed);
            }
        });
    }

    private void finish(Session loaded, EdgeException reason) {
        session = loaded;
        error = reason;
        observer.run();
    }

    /** A load that was superseded may go on for a while, and isn't heard. */
    private void progress(int mine, Stage stage, long done, long total) {
        if (mine != loads) {
            return;
        }
        Step last = step;
        long start = last != null && last.stage == stage ? last.startMillis : SystemClock.elapsedRealtime();
        step = new Step(stage, done, total, start);
    }
}
