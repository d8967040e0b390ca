package edgetransact.app;

import android.content.Context;
import android.os.Handler;
import android.os.Looper;
import edgetransact.edge.Conversation;
import edgetransact.edge.EdgeException;
import edgetransact.edge.Finish;
import edgetransact.edge.Listener;
import edgetransact.edge.Session;
import edgetransact.edge.Usage;
import edgetransact.edge.android.ModelHolder;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** The conversation on the screen. It outlives activities, as the model does. For the main thread. */
final class Chat {
    /** A message on the screen. */
    static final class Bubble {
        /** Whether the user wrote it. */
        final boolean mine;

        /** Its text, which grows while it is an answer. */
        final StringBuilder text = new StringBuilder();

        /** How it ended, once it did. Null for the user's. */
        Finish finish;

        /** What it took, if the engine says. */
        Usage usage;

        /** Why there is no answer, or no more of it. */
        EdgeException error;

        Bubble(boolean mine) {
            this.mine = mine;
        }
    }

    private static Chat instance;

    private final ModelHolder holder;
    private final Handler main = new Handler(Looper.getMainLooper());
    private final List<Bubble> bubbles = new ArrayList<>();
    private Runnable observer = () -> {};
    private Session session;
    private Conversation conversation;
    private Bubble answer;

    private Chat(ModelHolder holder) {
        this.holder = holder;
        holder.observe(this::sessionChanged);
    }

    /** The process's conversation. */
    static Chat of(Context context) {
        if (instance == null) {
            instance = new Chat(ModelHolder.of(context));
        }
        return instance;
    }

    /** Calls {@code observer} after each change; only the last one given is called. */
    void observe(Runnable observer) {
        this.observer = observer;
    }

    /** Doesn't call {@code observer} any more. */
    void forget(Runnable observer) {
        if (this.observer == observer) {
            this.observer = () -> {};
        }
    }

    /** The messages, oldest first. */
    List<Bubble> bubbles() {
        return Collections.unmodifiableList(bubbles);
    }

    /** Whether an answer is being given. */
    boolean answering() {
        return answer != null;
    }

    /** Sends a message, if a model is there to answer it. */
    void send(String text) {
        if (conversation == null || answering()) {
            return;
        }
        Bubble question = new Bubble(true);
        question.text.append(text);
        bubbles.add(question);
        answer = new Bubble(false);
        bubbles.add(answer);
        conversation.send(text, new Answer(answer));
        observer.run();
    }

    /** Ends the answer that is being given. */
    void stop() {
        if (conversation != null) {
            conversation.stop();
        }
    }

    /** Forgets the conversation. */
    void restart() {
        answer = null;
        bubbles.clear();
        if (conversation != null) {
            conversation.reset();
        }
        observer.run();
    }

    private void sessionChanged() {
        if (session != holder.session()) {
            session = holder.session();
            conversation = session == null ? null : session.conversation();
            if (answer != null) {
                answer.finish = Finish.STOPPED;
                answer = null;
            }
            if (session != null) {
                bubbles.clear();
            }
        }
        observer.run();
    }

    /** Brings what the engine's thread tells to the main thread, as long as its bubble is the one being written. */
    private final class Answer implements Listener {
        private final Bubble bubble;

        Answer(Bubble bubble) {
            this.bubble = bubble;
        }

        @Override
        public void text(String delta) {
            change(() -> bubble.text.append(delta));
        }

        @Override
        public void done(Finish finish, Usage usage) {
            change(() -> {
                bubble.finish = finish;
                bubble.usage = usage;
                answer = null;
            });
        }

        @Override
        public void failed(EdgeException error) {
            change(() -> {
                bubble.error = error;
                answer = null;
                if (error.code() == EdgeException.Code.ENGINE_FAILED) {
                    holder.fail(error);
                }
            });
        }

        private void change(Runnable change) {
            main.post(() -> {
                if (answer == bubble) {
                    change.run();
                    observer.run();
                }
            });
        }
    }
}
