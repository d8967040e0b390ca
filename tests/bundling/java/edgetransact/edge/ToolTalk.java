package edgetransact.edge;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * A model that is asked to call tools. Each line of stdin is the pieces of an answer, and how it goes on; stdout has
 * what was heard of it, and the request.
 */
public final class ToolTalk {
    private ToolTalk() {}

    /** @param arguments {@code models.json}, and a tool's name, description, parameters, then {@code toolChoice} */
    public static void main(String[] arguments) throws Exception {
        Model model = Models.read(arguments[0]).list().get(0);
        Choice choice = Choice.byLibrary(model.library(Device.CPU), model, new Phone(() -> false, Long.MAX_VALUE, ""));
        Scripted engine = new Scripted();
        Session session = Session.load(model, choice, Paths.get("/"), engine, (stage, done, total) -> {});
        Sampling sampling = Sampling.builder()
                .tools(Collections.singletonList(new Tool(arguments[1], arguments[2], arguments[3])))
                .toolChoice(arguments[4])
                .build();
        Conversation chat = session.conversation("Be brief.", Collections.emptyList(), sampling);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        List<Message> next = Collections.singletonList(Message.user("Weather?"));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            engine.answer = new JSONArray(line);
            JSONArray heard = new JSONArray();
            chat.send(next, listener(heard));
            List<Message> messages = Message.read(Message.write(chat.messages()));
            if (!messages.equals(chat.messages())) {
                throw new AssertionError(messages + " instead of " + chat.messages());
            }
            List<ToolCall> calls = messages.get(messages.size() - 1).toolCalls();
            next = calls.isEmpty()
                    ? Collections.singletonList(Message.user("And?"))
                    : Arrays.asList(calls.stream()
                            .map(call -> Message.tool(call.id(), "{\"of\":\"" + call.name() + "\"}"))
                            .toArray(Message[]::new));
            System.out.println(new JSONObject()
                    .put("heard", heard)
                    .put("request", engine.request)
                    .put("ids", new JSONArray(Arrays.asList(calls.stream().map(ToolCall::id).toArray())))
                    .put("said", messages.get(messages.size() - 1).text()));
        }
    }

    private static Listener listener(JSONArray heard) {
        return new Listener() {
            @Override
            public void text(String delta) {
                heard.put(delta);
            }

            @Override
            public void toolCalls(List<ToolCall> calls) {
                for (ToolCall call : calls) {
                    heard.put(new JSONArray(Arrays.asList(call.name(), call.arguments())));
                }
            }

            @Override
            public void done(Finish finish, Usage usage) {
                heard.put(finish.name());
            }

            @Override
            public void failed(EdgeException error) {
                heard.put(error.getMessage());
            }
        };
    }

    /** Says what it is told to. */
    private static final class Scripted implements Engine, Engine.Factory {
        private Callbacks callbacks;
        private JSONArray answer = new JSONArray();
        private JSONObject request;

        @Override
        public Engine open(Choice choice, Callbacks to) {
            callbacks = to;
            return this;
        }

        @Override
        public void chatCompletion(String requestJson, String id) {
            try {
                request = new JSONObject(requestJson);
                JSONArray responses = new JSONArray();
                for (int index = 0; index < answer.length(); index++) {
                    JSONObject delta = new JSONObject().put("content", answer.getString(index));
                    JSONObject choice = new JSONObject().put("delta", delta).put("finish_reason", JSONObject.NULL);
                    responses.put(new JSONObject().put("id", id).put("choices", new JSONArray().put(choice)));
                }
                JSONObject usage = new JSONObject().put("prompt_tokens", 9).put("completion_tokens", 9);
                responses.put(new JSONObject().put("id", id).put("choices", new JSONArray()).put("usage", usage));
                callbacks.responses(responses.toString());
            } catch (JSONException error) {
                throw new AssertionError(error);
            }
        }

        @Override
        public void reload(String engineConfigJson) {}

        @Override
        public void abort(String requestId) {}

        @Override
        public void unload() {}

        @Override
        public void close() {}
    }
}
