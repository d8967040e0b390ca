package edgetransact.edge;

import edgetransact.edge.EdgeException.Code;
import java.nio.file.Path;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import org.jetbrains.annotations.Nullable;
import org.json.JSONObject;

/**
 * A loaded model, which answers in conversations.
 *
 * <p>Thread-safe. It owns its engine; a phone has memory for one session at a time.
 */
public final class Session implements AutoCloseable {
    private final Model model;
    private final Choice choice;
    /** Its lock guards the other fields. */
    private final LoadedEngine engine;

    private int templateTokens;
    private Conversation answering;
    private Runnable failure = () -> {};
    private boolean closed;

    private Session(Model model, Choice choice, LoadedEngine engine) {
        this.model = model;
        this.choice = choice;
        this.engine = engine;
    }

    /**
     * Loads a model and lets it answer once, so that the phone compiles its OpenCL kernels now and not at the first
     * question. Blocks. Interrupting the thread ends it, once the engine has finished what it was doing.
     *
     * @param model the model
     * @param choice its library on this phone
     * @param weights what {@link WeightStore#prepare} returned
     * @param engines makes the engine
     * @param progress hears stages {@code LOAD} and {@code KERNELS}
     * @throws EdgeException {@code ENGINE_FAILED}
     */
    public static Session load(Model model, Choice choice, Path weights, Engine.Factory engines, Progress progress)
            throws EdgeException, InterruptedException {
        return load(model, choice, weights, new LoadedEngine(choice, engines), progress);
    }

    static Session load(Model model, Choice choice, Path weights, LoadedEngine engine, Progress progress)
            throws EdgeException, InterruptedException {
        Session session = new Session(model, choice, engine);
        boolean ready = false;
        try {
            progress.at(Stage.LOAD, 0, 1);
            engine.load(EngineConfig.json(weights, choice.library(), model.contextWindowSize(), true));
            progress.at(Stage.LOAD, 1, 1);
            progress.at(Stage.KERNELS, 0, 1);
            session.warmUp();
            progress.at(Stage.KERNELS, 1, 1);
            ready = true;
            return session;
        } finally {
            if (!ready) {
                engine.close();
            }
        }
    }

    /**
     * Chooses a library and loads it, as {@link Choice#of} and {@link #load} do. Where the GPU's engine fails, and the
     * preference is {@code AUTO}, the CPU's library is loaded at once, if there is one; where the driver ends the app,
     * the next start does so, as after an engine that fails at an answer.
     */
    public static Session start(
            Model model,
            Phone phone,
            Preference preference,
            Starts starts,
            Path weights,
            Engine.Factory engines,
            Progress progress)
            throws EdgeException, InterruptedException {
        Choice choice = Choice.of(model, phone, preference, starts);
        try {
            return load(model, choice, starts, weights, engines, progress);
        } catch (EdgeException error) {
            boolean gaveUp = error.code() == Code.ENGINE_FAILED && choice.device() == Device.OPENCL;
            if (!gaveUp || preference != Preference.AUTO || model.library(Device.CPU) == null) {
                throw error;
            }
        }
        Choice other = Choice.of(model, phone, preference, starts);
        return load(model, other, starts, weights, engines, progress);
    }

    private static Session load(
            Model model, Choice choice, Starts starts, Path weights, Engine.Factory engines, Progress progress)
            throws EdgeException, InterruptedException {
        boolean failed = false;
        starts.mark(choice);
        try {
            Session session = load(model, choice, weights, engines, progress);
            session.failure = () -> starts.fail(choice);
            return session;
        } catch (EdgeException error) {
            failed = error.code() == Code.ENGINE_FAILED;
            throw error;
        } finally {
            if (failed) {
                starts.fail(choice);
            } else {
                starts.clear(choice);
            }
        }
    }

    /** The model. */
    public Model model() {
        return model;
    }

    /** Its library on this phone, and what it runs on. */
    public Choice choice() {
        return choice;
    }

    /** A conversation without a system's message, sampled as the model's configuration says. */
    public Conversation conversation() {
        return conversation(null, Collections.emptyList(), Sampling.DEFAULT);
    }

    /**
     * Begins a conversation, or goes on with one of earlier.
     *
     * @param system what the model is told before all messages, in place of what its own template says; null for that
     * @param history what was said before, oldest first: {@link Conversation#messages} of another conversation
     * @param sampling how answers are made
     */
    public Conversation conversation(@Nullable String system, List<Message> history, Sampling sampling) {
        int window = model.contextWindowSize();
        String told = Tools.tell(system, sampling.toldTools());
        History restored = new History(templateTokens, window, sampling.maxTokens(), told, history);
        return new Conversation(this, engine, sampling, restored);
    }

    /** A conversation's answer begins. The caller has the engine's lock. */
    void begin(Conversation conversation) {
        if (closed) {
            throw new IllegalStateException("the session is closed");
        }
        if (answering != null) {
            String whose = answering == conversation ? "an" : "another conversation's";
            throw new IllegalStateException(whose + " answer is still being given: a session gives one at a time");
        }
        answering = conversation;
    }

    /** It has ended. */
    void end() {
        answering = null;
    }

    /** Whether the engine answers nothing any more. */
    boolean isDead() {
        return engine.isDead();
    }

    /** The engine has ended at an answer, and that wasn't the request's fault: the next start should know. */
    void fail() {
        failure.run();
    }

    /** Ends the answer that is being given and frees the model. Blocks for seconds at most; the next load waits for it. */
    @Override
    public void close() {
        synchronized (engine) {
            if (closed) {
                return;
            }
            closed = true;
            if (answering != null) {
                answering.stop();
            }
        }
        engine.close();
    }

    private void warmUp() throws EdgeException, InterruptedException {
        CompletableFuture<String> answered = new CompletableFuture<>();
        engine.start(Requests.shortest(), new LoadedEngine.Answer() {
            @Override
            public void text(String delta) {}

            @Override
            public void done(String finishReason, JSONObject usage) {
                templateTokens = Usage.read(usage).promptTokens();
                answered.complete(null);
            }

            @Override
            public void failed(EdgeException error) {
                answered.complete(error.detail());
            }
        });
        engine.ready(answered);
    }
}
