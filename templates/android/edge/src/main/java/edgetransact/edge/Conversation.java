package edgetransact.edge;

import edgetransact.edge.EdgeException.Code;
import java.util.Collections;
import java.util.List;
import org.json.JSONObject;

/**
 * A conversation with a session's model. A session may have several, and gives one answer at a time.
 *
 * <p>Thread-safe. It outlives its session as far as {@link #messages} goes.
 */
public final class Conversation {
    private final Session session;
    /** Its lock guards the other fields. */
    private final LoadedEngine engine;

    private final Sampling sampling;
    private final History history;
    private Turn turn;

    Conversation(Session session, LoadedEngine engine, Sampling sampling, History history) {
        this.session = session;
        this.engine = engine;
        this.sampling = sampling;
        this.history = history;
    }

    /** What was said, oldest first, without the system's message: what {@link Session#conversation} goes on from. */
    public List<Message> messages() {
        synchronized (engine) {
            return Collections.unmodifiableList(history.messages());
        }
    }

    /** How many of the oldest messages the model no longer sees, because they don't fit into its context window. */
    public int leftOut() {
        synchronized (engine) {
            return history.leftOut();
        }
    }

    /**
     * Sends a message; returns at once. The oldest turns are left out if they and an answer might not fit into the
     * context window; the system's message never is.
     *
     * @param text the message, any text
     * @param listener hears the answer; {@code failed} with {@code CONTEXT_FULL} or {@code ENGINE_FAILED}
     * @throws IllegalStateException an answer is still being given, or the session is closed
     */
    public void send(String text, Listener listener) {
        send(Collections.singletonList(Message.user(text)), listener);
    }

    /**
     * Sends messages, as for {@link #send(String, Listener)}: the results of tools that the model asked for.
     *
     * @param messages {@link Message#tool}, one for each call, or {@link Message#user}
     */
    public void send(List<Message> messages, Listener listener) {
        synchronized (engine) {
            start(history.draft(messages), listener);
        }
    }

    /**
     * Has the last message answered again, in place of the answer that it has. Returns at once.
     *
     * @param listener hears the answer, as for {@link #send}
     * @throws IllegalStateException there is no message, an answer is still being given, or the session is closed
     */
    public void regenerate(Listener listener) {
        synchronized (engine) {
            History.Draft draft = history.again();
            if (draft == null) {
                throw new IllegalStateException("there is no message to answer");
            }
            start(draft, listener);
        }
    }

    /** Ends the answer that is being given here, if one is. What was said stays. Returns at once. */
    public void stop() {
        synchronized (engine) {
            if (turn != null) {
                engine.stop();
                turn.end(Finish.STOPPED, null);
            }
        }
    }

    /** Ends the answer that a listener hears, unless it has ended. What was said stays. Returns at once. */
    void stop(Listener listener) {
        synchronized (engine) {
            if (turn != null && turn.listener == listener) {
                stop();
            }
        }
    }

    /** Ends the answer that is being given here, and forgets all messages but the system's. Returns at once. */
    public void reset() {
        synchronized (engine) {
            stop();
            history.clear();
        }
    }

    private void start(History.Draft draft, Listener listener) {
        session.begin(this);
        turn = new Turn(draft, listener);
        turn.start();
    }

    /** A message and its answer. */
    private final class Turn implements LoadedEngine.Answer {
        private final History.Draft draft;
        private final Listener listener;
        private final Tools answer = new Tools(sampling);
        private final long start = System.nanoTime();
        private final boolean alive = !engine.isDead();
        private Double secondsToFirstToken;
        private boolean counting;
        private boolean made;

        private Turn(History.Draft draft, Listener listener) {
            this.draft = draft;
            this.listener = listener;
        }

        private void start() {
            counting = draft.uncounted();
            if (!counting) {
                draft.fit();
            }
            request();
        }

        /** Counting costs little: the engine's prefix cache keeps the prompt for the answer. */
        private void request() {
            secondsToFirstToken = null;
            Sampling how = counting ? sampling.change().maxTokens(1).build() : sampling;
            engine.start(Requests.chat(draft.messages(), how), this);
        }

        @Override
        public void step() {
            made = true;
            if (!counting && secondsToFirstToken == null) {
                secondsToFirstToken = (System.nanoTime() - start) / 1e9;
            }
        }

        @Override
        public void text(String delta) {
            if (!counting) {
                tell(answer.add(delta));
            }
        }

        @Override
        public void done(String finishReason, JSONObject counted) {
            Usage usage = Usage.read(counted);
            boolean refused = "length".equals(finishReason) && usage.promptTokens() == 0;
            if (refused && draft.shorten()) {
                request();
            } else if (refused) {
                failed(EdgeException.of(Code.CONTEXT_FULL, ""));
            } else if (counting) {
                draft.counted(usage.promptTokens());
                counting = false;
                draft.fit();
                request();
            } else {
                end("length".equals(finishReason) ? Finish.LENGTH : Finish.STOP, usage.after(secondsToFirstToken));
            }
        }

        @Override
        public void failed(EdgeException error) {
            boolean grammar = sampling.jsonSchema() != null || sampling.tool() != null;
            // The engine ends at a schema that it doesn't understand, before it has made a token.
            if (alive && engine.isDead() && (made || !grammar)) {
                session.fail();
            }
            over();
            listener.failed(error);
        }

        private void end(Finish finish, Usage usage) {
            tell(answer.end());
            over();
            String text = Reasoning.answer(answer.text());
            draft.answered(Message.assistant(text, answer.calls()), answer.said(), usage);
            if (answer.calls().isEmpty()) {
                listener.done(finish, usage);
            } else {
                listener.toolCalls(answer.calls());
                listener.done(finish == Finish.STOPPED ? finish : Finish.TOOL_CALLS, usage);
            }
        }

        private void tell(String text) {
            if (!text.isEmpty()) {
                listener.text(text);
            }
        }

        private void over() {
            turn = null;
            session.end();
        }
    }
}
