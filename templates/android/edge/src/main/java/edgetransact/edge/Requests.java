package edgetransact.edge;

import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.Iterator;
import java.util.List;
import java.util.Set;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** Requests in the fields of MLC's {@code ChatCompletionRequest} ({@code cpp/json_ffi/openai_api_protocol.h}). */
final class Requests {
    /** Keys of a JSON schema that add nothing to its type. */
    private static final Set<String> NO_RULES = new HashSet<>(Arrays.asList(
            "type", "title", "default", "description", "examples", "deprecated", "readOnly", "writeOnly", "$comment",
            "$schema"));

    private Requests() {}

    /** The next answer of a conversation. */
    static JSONObject chat(List<Message> messages, Sampling sampling) {
        try {
            JSONArray list = new JSONArray();
            for (Message message : messages) {
                list.put(new JSONObject()
                        .put("role", message.role())
                        .put("content", message.content())
                        .put("tool_call_id", message.toolCallId()));
            }
            // What is null isn't put, and then as the model's configuration says.
            JSONObject request = new JSONObject()
                    .put("messages", list)
                    .put("temperature", sampling.temperature())
                    .put("top_p", sampling.topP())
                    .put("frequency_penalty", sampling.frequencyPenalty())
                    .put("presence_penalty", sampling.presencePenalty())
                    .put("seed", sampling.seed())
                    .put("max_tokens", sampling.maxTokens());
            if (!sampling.stop().isEmpty()) {
                request.put("stop", new JSONArray(sampling.stop()));
            }
            Tool tool = sampling.tool();
            String schema = tool == null ? sampling.jsonSchema() : tool.parameters();
            if (schema != null) {
                JSONObject format = new JSONObject().put("type", "json_object").put("schema", ruled(schema));
                request.put("response_format", format);
            }
            return request;
        } catch (JSONException error) {
            throw new AssertionError(error);
        }
    }

    /**
     * A schema that says the same. At one that is no more than a type, MLC-LLM's engine ends: xgrammar d4f57c44 takes
     * its own rule for the type, and then finds none for the root.
     */
    private static String ruled(String schema) throws JSONException {
        JSONObject parsed = new JSONObject(schema);
        for (Iterator<String> keys = parsed.keys(); keys.hasNext(); ) {
            if (!NO_RULES.contains(keys.next())) {
                return schema;
            }
        }
        return new JSONObject().put("anyOf", new JSONArray().put(parsed)).toString();
    }

    /** An answer of two tokens: one of the prompt, one of itself, so all kernels of a conversation run. */
    static JSONObject shortest() {
        Sampling two = Sampling.builder().maxTokens(2).build();
        return chat(Collections.singletonList(Message.user("?")), two);
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
