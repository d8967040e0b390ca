package edgetransact.tests;

import android.content.Context;
import edgetransact.edge.Cancellation;
import edgetransact.edge.Chat;
import edgetransact.edge.Edge;
import edgetransact.edge.EdgeException;
import edgetransact.edge.Finish;
import edgetransact.edge.Listener;
import edgetransact.edge.LoadListener;
import edgetransact.edge.Loading;
import edgetransact.edge.Message;
import edgetransact.edge.Preference;
import edgetransact.edge.Sampling;
import edgetransact.edge.Usage;
import java.util.Collections;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** An app in Java, where {@code suspend} can't be called. */
final class JavaCaller {
    private static final int SECONDS = 60;

    private JavaCaller() {}

    /** What an activity does; nothing here has a context. */
    static Cancellation load(Context context, LoadListener listener) {
        Edge.load(context, listener).cancel();
        Edge.load(context, "smollm2", Preference.GPU, listener).cancel();
        return Edge.load(context, null, Preference.AUTO, true, listener);
    }

    /** The whole answer. */
    static String ask(Edge edge, String text) throws Exception {
        Sampling sampling = Sampling.builder().temperature(0.0).build();
        Chat chat = edge.chat(null, Collections.<Message>emptyList(), sampling);
        Heard heard = new Heard();
        chat.send(text, heard);
        return heard.answer.get(SECONDS, TimeUnit.SECONDS);
    }

    /** Why there is no answer. */
    static String failure(Edge edge, String text) throws Exception {
        Heard heard = new Heard();
        edge.chat().send(text, heard);
        return heard.answer.get(SECONDS, TimeUnit.SECONDS);
    }

    /** Why there is no other answer in a chat without a message. */
    static String again(Edge edge) throws Exception {
        Heard heard = new Heard();
        edge.chat().regenerate(heard);
        return heard.answer.get(SECONDS, TimeUnit.SECONDS);
    }

    /** The stages of loading. */
    static String reload(Edge edge, Preference device) throws Exception {
        Loads loads = new Loads();
        edge.reload(device, false, loads);
        String end = loads.get();
        return loads.loaded == null ? end : end + (loads.loaded == edge);
    }

    /** What loading says where there is no Android. */
    static String loadWithoutAndroid() throws Exception {
        Loads loads = new Loads();
        Edge.load(new Context() {}, loads);
        return loads.get();
    }

    static final class Loads implements LoadListener {
        private final CompletableFuture<String> end = new CompletableFuture<>();
        private final StringBuilder stages = new StringBuilder();
        private volatile Edge loaded;

        /** The stages, or why the model isn't loaded. */
        String get() throws Exception {
            return end.get(SECONDS, TimeUnit.SECONDS);
        }

        @Override
        public void step(Loading.Step step) {
            if (step.getDone() == step.getTotal()) {
                stages.append(step.getStage()).append(' ');
            }
        }

        @Override
        public void ready(Edge ready) {
            loaded = ready;
            end.complete(stages.toString());
        }

        @Override
        public void failed(EdgeException error) {
            end.complete(error.getMessage());
        }
    }

    private static final class Heard implements Listener {
        private final StringBuilder text = new StringBuilder();
        private final CompletableFuture<String> answer = new CompletableFuture<>();

        @Override
        public void text(String delta) {
            text.append(delta);
        }

        @Override
        public void done(Finish finish, Usage usage) {
            answer.complete(finish + " " + text);
        }

        @Override
        public void failed(EdgeException error) {
            answer.complete(error.getMessage());
        }
    }
}
