package edgetransact.edge;

import edgetransact.edge.EdgeException.Code;
import java.nio.file.Path;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import org.json.JSONObject;

/**
 * A conversation with a loaded model.
 *
 * <p>Thread-safe. It owns its engine; a phone has memory for one session at a time.
 */
public final class Session implements AutoCloseable {
    private final Model model;
    private final Choice choice;
    /** Its lock guards the other fields. */
    private final LoadedEngine engine;

    private History history;
    private Turn turn;
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
        LoadedEngine engine = new LoadedEngine(choice, engines);
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
     * the next start does so.
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
        boolean failed = false;
        starts.mark(choice);
        try {
            return load(model, choice, weights, engines, progress);
        } catch (EdgeException error) {
            failed = error.code() == Code.ENGINE_FAILED;
            Choice other = Choice.of(model, phone, preference, starts);
            if (!failed || other.device() == choice.device()) {
                throw error;
            }
            return load(model, other, weights, engines, progress);
        } finally {
            if (!failed) {
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

    /** The messages that the model has seen or said, oldest first; not those that no longer fit and were dropped. */
    public List<Message> messages() {
        synchronized (engine) {
            return Collections.unmodifiableList(history.messages(0));
        }
    }

    /**
     * Sends a message; returns at once. The oldest turns are left out if they and an answer might not fit into the
     * context window.
     *
     * @param text the message, any text
     * @param listener hears the answer; {@code failed} with {@code CONTEXT_FULL} or {@code ENGINE_FAILED}
     * @throws IllegalStateException an answer is still being given, or the session is closed
     */
    public void send(String text, Listener listener) {
        synchronized (engine) {
            if (closed || turn != null) {
                throw new IllegalStateException(closed ? "the session is closed" : "an answer is still being given");
            }
            turn = new Turn(text, listener, history.excess(text));
            turn.start();
        }
    }

    /** Ends the answer that is being given, if one is. What was said stays in the conversation. Returns at once. */
    public void stop() {
        synchronized (engine) {
            if (turn != null) {
                engine.stop();
                turn.end(Finish.STOPPED, null);
            }
        }
    }

    /** Ends the answer that is being given, and forgets the conversation. Returns at once. */
    public void reset() {
        synchronized (engine) {
            stop();
            engine.reset();
            history.clear();
        }
    }

    /** Ends the answer that is being given and frees the model. Blocks until it is free. */
    @Override
    public void close() {
        synchronized (engine) {
            if (closed) {
                return;
            }
            closed = true;
            stop();
        }
        engine.close();
    }

    private void warmUp() throws EdgeException, InterruptedException {
        CompletableFuture<Integer> promptTokens = new CompletableFuture<>();
        engine.start(Requests.shortest(), new LoadedEngine.Answer() {
            @Override
            public void text(String delta) {}

            @Override
            public void done(String finishReason, JSONObject usage) {
                promptTokens.complete(Usage.read(usage).promptTokens());
            }

            @Override
            public void failed(EdgeException error) {
                promptTokens.completeExceptionally(error);
            }
        });
        try {
            history = new History(promptTokens.get(), model.contextWindowSize());
        } catch (ExecutionException error) {
            throw (EdgeException) error.getCause();
        }
    }

    /** A message and its answer. */
    private final class Turn implements LoadedEngine.Answer {
        private final String question;
        private final Listener listener;
        private final StringBuilder said = new StringBuilder();
        private int dropped;

        private Turn(String question, Listener listener, int dropped) {
            this.question = question;
            this.listener = listener;
            this.dropped = dropped;
        }

        private void start() {
            List<Message> messages = history.messages(dropped);
            messages.add(new Message("user", question));
            engine.start(Requests.chat(messages), this);
        }

        @Override
        public void text(String delta) {
            said.append(delta);
            listener.text(delta);
        }

        @Override
        public void done(String finishReason, JSONObject counted) {
            Usage usage = Usage.read(counted);
            boolean refused = "length".equals(finishReason) && usage.promptTokens() == 0;
            if (!refused) {
                end("length".equals(finishReason) ? Finish.LENGTH : Finish.STOP, usage);
            } else if (dropped < history.size()) {
                dropped++;
                start();
            } else {
                failed(EdgeException.of(Code.CONTEXT_FULL, ""));
            }
        }

        @Override
        public void failed(EdgeException error) {
            turn = null;
            listener.failed(error);
        }

        private void end(Finish finish, Usage usage) {
            turn = null;
            history.add(question, said.toString(), dropped, usage);
            listener.done(finish, usage);
        }
    }
}
