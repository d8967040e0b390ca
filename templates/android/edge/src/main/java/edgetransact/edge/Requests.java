package edgetransact.edge;

import java.util.Collections;
import java.util.List;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** Requests in the fields of MLC's {@code ChatCompletionRequest} ({@code cpp/json_ffi/openai_api_protocol.h}). */
final class Requests {
    private Requests() {}

    /** The next answer of a conversation, sampled as the model's configuration says. */
    static JSONObject chat(List<Message> messages) {
        try {
            JSONArray list = new JSONArray();
            for (Message message : messages) {
                list.put(new JSONObject().put("role", message.role()).put("content", message.text()));
            }
            return new JSONObject().put("messages", list);
        } catch (JSONException error) {
            throw new AssertionError(error);
        }
    }

    /** An answer of two tokens: one of the prompt, one of itself, so all kernels of a conversation run. */
    static JSONObject shortest() {
        try {
            return chat(Collections.singletonList(new Message("user", "?"))).put("max_tokens", 2);
        } catch (JSONException error) {
            throw new AssertionError(error);
        }
    }

    /** Exactly so many tokens, the likeliest each time. */
    static JSONObject greedy(int tokens) {
        try {
            return new JSONObject()
                    .put("messages", new JSONArray())
                    .put("temperature", 0)
                    .put("max_tokens", tokens)
                    .put("debug_config", new JSONObject().put("ignore_eos", true));
        } catch (JSONException error) {
            throw new AssertionError(error);
        }
    }
}
