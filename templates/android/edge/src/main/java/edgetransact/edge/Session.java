package edgetransact.edge;

import java.nio.file.Path;
import java.util.List;

/**
 * A conversation with a loaded model.
 *
 * <p>Thread-safe. It owns its engine; a phone has memory for one session at a time.
 */
public final class Session implements AutoCloseable {
    private Session() {}

    /**
     * Loads a model and lets it answer once, so that the phone compiles its OpenCL kernels now and not at the first
     * question. Blocks; interrupting the thread ends it.
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
        throw new UnsupportedOperationException();
    }

    /** The model. */
    public Model model() {
        throw new UnsupportedOperationException();
    }

    /** Its library on this phone, and what it runs on. */
    public Choice choice() {
        throw new UnsupportedOperationException();
    }

    /** The messages that the model has seen or said, oldest first; not those that no longer fit and were dropped. */
    public List<Message> messages() {
        throw new UnsupportedOperationException();
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
        throw new UnsupportedOperationException();
    }

    /** Ends the answer that is being given, if one is. What was said stays in the conversation. Returns at once. */
    public void stop() {
        throw new UnsupportedOperationException();
    }

    /** Ends the answer that is being given, and forgets the conversation. Returns at once. */
    public void reset() {
        throw new UnsupportedOperationException();
    }

    /** Ends the answer that is being given and frees the model. Blocks until it is free. */
    @Override
    public void close() {
        throw new UnsupportedOperationException();
    }
}
