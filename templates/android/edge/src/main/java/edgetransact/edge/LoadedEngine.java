package edgetransact.edge;

import edgetransact.edge.EdgeException.Code;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * An engine that answers one request at a time.
 *
 * <p>Thread-safe: everything happens under the lock of this object, calls of an {@link Answer} too. Its users take the
 * same lock for what belongs together with it.
 */
final class LoadedEngine implements Engine.Callbacks, AutoCloseable {
    /** Hears an answer. Calls come one at a time, {@link #done} or {@link #failed} last. */
    interface Answer {
        /** The engine made a step; text may follow. One step is one token, unless the engine was faster than we. */
        default void step() {}

        /** A piece of text. */
        void text(String delta);

        /** The answer is complete. */
        void done(String finishReason, JSONObject usage);

        /** There will be no more of it. */
        void failed(EdgeException error);
    }

    private static final long FREE_MILLIS = 20_000;
    /** Ten times what the slowest phone is known to take. */
    private static final long LOAD_MILLIS = 600_000;
    /** How long {@link #close} blocks: an engine can't be stopped while it loads. */
    private static final long PATIENCE_MILLIS = 2_000;
    /** Engines that are still being freed. */
    private static final Set<CompletableFuture<Void>> FREEING = ConcurrentHashMap.newKeySet();

    private final Engine engine;
    private final long loadMillis;
    private final long freeMillis;
    /** The last call that blocks; see {@link #begin}. */
    private CompletableFuture<String> blocking = CompletableFuture.completedFuture(null);

    private String dead;
    private String id;
    private Answer answer;
    private boolean heard;
    private String finishReason;
    private String stopped;

    /** Waits until the engines that were closed are free, since a phone has memory for one. */
    LoadedEngine(Choice choice, Engine.Factory engines) throws EdgeException, InterruptedException {
        this(choice, engines, LOAD_MILLIS, FREE_MILLIS);
    }

    /**
     * @param loadMillis how long {@link #load} waits for the model, and {@link #ready} for its first answer
     * @param freeMillis how long an engine that is closed has to free the model
     */
    LoadedEngine(Choice choice, Engine.Factory engines, long loadMillis, long freeMillis)
            throws EdgeException, InterruptedException {
        for (CompletableFuture<Void> freed : FREEING) {
            try {
                freed.get();
            } catch (ExecutionException impossible) {
                throw new AssertionError(impossible);
            }
        }
        this.loadMillis = loadMillis;
        this.freeMillis = freeMillis;
        try {
            engine = engines.open(choice, this);
        } catch (RuntimeException | Error error) {
            throw EdgeException.of(Code.ENGINE_FAILED, reason(error), error);
        }
    }

    /** Loads a model in place of the one before. Blocks. A driver that hangs meanwhile is given up. */
    void load(String config) throws EdgeException, InterruptedException {
        ready(begin(() -> engine.reload(config)));
    }

    /**
     * Waits for a step of loading as long as any phone takes. After that, the engine answers nothing any more.
     *
     * @param step completed with null, or with what went wrong
     */
    void ready(CompletableFuture<String> step) throws EdgeException, InterruptedException {
        String failure;
        try {
            failure = step.get(loadMillis, TimeUnit.MILLISECONDS);
        } catch (TimeoutException hangs) {
            failure = "it wasn't ready after " + loadMillis / 1000 + " seconds";
            died(failure);
        } catch (ExecutionException error) {
            throw new AssertionError(error);
        }
        if (failure != null) {
            throw EdgeException.of(Code.ENGINE_FAILED, failure);
        }
    }

    /** Whether it answers nothing any more. */
    synchronized boolean isDead() {
        return dead != null;
    }

    /** Starts an answer; the engine must not be answering. */
    synchronized void start(JSONObject request, Answer to) {
        if (answer != null) {
            throw new IllegalStateException("an answer is still being given");
        }
        if (dead != null) {
            to.failed(EdgeException.of(Code.ENGINE_FAILED, dead));
            return;
        }
        id = UUID.randomUUID().toString();
        answer = to;
        heard = false;
        finishReason = null;
        try {
            engine.chatCompletion(Json.ascii(request), id);
        } catch (RuntimeException | Error error) {
            fail(reason(error));
        }
    }

    /**
     * Ends the answer: its {@link Answer} hears nothing more.
     *
     * <p>The engine's table of requests has no lock. While it streams, its own thread reads the table, so an abort waits
     * for the next callback, which that thread makes. Before the first token nobody reads it, and waiting could take as
     * long as a prompt.
     */
    synchronized void stop() {
        if (answer == null) {
            return;
        }
        answer = null;
        if (heard) {
            stopped = id;
        } else {
            abort(id);
        }
    }

    @Override
    public synchronized void responses(String json) {
        if (stopped != null) {
            String last = stopped;
            stopped = null;
            abort(last);
        }
        if (answer == null) {
            return;
        }
        heard = true;
        answer.step();
        try {
            JSONArray responses = new JSONArray(json);
            for (int index = 0; index < responses.length(); index++) {
                JSONObject response = responses.getJSONObject(index);
                if (answer != null && id.equals(response.getString("id"))) {
                    hear(response);
                }
            }
        } catch (JSONException error) {
            fail("it said " + json);
        }
    }

    @Override
    public synchronized void died(String reason) {
        dead = reason;
        blocking.complete(reason);
        fail(reason);
    }

    /**
     * Frees the model and ends the engine. Blocks until its memory is free, even if the thread is interrupted, but for
     * {@link #PATIENCE_MILLIS} at most; the next engine waits for the rest. A driver that hangs meanwhile is given up,
     * with the memory that it holds.
     */
    @Override
    public void close() {
        CompletableFuture<String> loading;
        synchronized (this) {
            stop();
            loading = blocking;
        }
        CompletableFuture<Void> freed = new CompletableFuture<>();
        FREEING.add(freed);
        Thread thread = new Thread(() -> {
            await(loading, loadMillis);
            await(begin(engine::unload), freeMillis);
            demand(engine::close);
            FREEING.remove(freed);
            freed.complete(null);
        }, "edge-engine-close");
        thread.setDaemon(true);
        thread.start();
        boolean interrupted = Thread.interrupted();
        if (await(freed, PATIENCE_MILLIS) || interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    /** Returns whether the thread was interrupted meanwhile. */
    private static boolean await(CompletableFuture<?> call, long millis) {
        boolean interrupted = false;
        long end = System.nanoTime() + TimeUnit.MILLISECONDS.toNanos(millis);
        while (!call.isDone()) {
            try {
                call.get(end - System.nanoTime(), TimeUnit.NANOSECONDS);
            } catch (InterruptedException superseded) {
                interrupted = true;
            } catch (ExecutionException impossible) {
                throw new AssertionError(impossible);
            } catch (TimeoutException hangs) {
                break;
            }
        }
        return interrupted;
    }

    private void hear(JSONObject response) throws JSONException {
        JSONArray choices = response.getJSONArray("choices");
        if (choices.length() > 0) {
            JSONObject choice = choices.getJSONObject(0);
            JSONObject delta = choice.getJSONObject("delta");
            String text = delta.isNull("content") ? "" : delta.getString("content");
            if (!choice.isNull("finish_reason")) {
                finishReason = choice.getString("finish_reason");
            }
            if ("error".equals(finishReason)) {
                fail(text);
            } else if (!text.isEmpty()) {
                answer.text(text);
            }
        }
        if (answer != null && !response.isNull("usage")) {
            Answer to = answer;
            answer = null;
            to.done(String.valueOf(finishReason), response.getJSONObject("usage"));
        }
    }

    private void abort(String request) {
        demand(() -> engine.abort(request));
    }

    /** Calls the engine; one that fails at what can't fail answers nothing any more. */
    private void demand(Runnable call) {
        try {
            call.run();
        } catch (RuntimeException | Error error) {
            died(reason(error));
        }
    }

    private static String reason(Throwable error) {
        return error.getMessage() == null ? error.toString() : error.getMessage();
    }

    private void fail(String reason) {
        if (answer != null) {
            Answer to = answer;
            answer = null;
            to.failed(EdgeException.of(Code.ENGINE_FAILED, reason));
        }
    }

    /**
     * Begins a call that never returns if the engine ends meanwhile, in a thread of its own.
     *
     * @return completed with null when it has returned, or with what went wrong
     */
    private CompletableFuture<String> begin(Runnable call) {
        CompletableFuture<String> result = new CompletableFuture<>();
        synchronized (this) {
            blocking = result;
            if (dead != null) {
                result.complete(dead);
                return result;
            }
        }
        Thread thread = new Thread(() -> {
            try {
                call.run();
                result.complete(null);
            } catch (RuntimeException | Error error) {
                result.complete(reason(error));
            }
        }, "edge-engine-call");
        thread.setDaemon(true);
        thread.start();
        return result;
    }
}
