package edgetransact.edge;

import java.nio.file.Path;
import org.json.JSONException;
import org.json.JSONObject;

/** MLC's {@code EngineConfig} ({@code cpp/serve/config.h}) for one conversation. */
final class EngineConfig {
    /**
     * At every step, the engine wants 10 free pages of 16 tokens in its KV cache. With fewer, it prefills the whole
     * sequence again for every token, and dies in the end. So the cache has room for so many more than the context
     * window, at which the engine then ends answers and refuses prompts, as it should.
     */
    private static final int SPARE_TOKENS = 160;

    private EngineConfig() {}

    /**
     * @param weights the model's directory
     * @param library the name of its library
     * @param contextWindowSize its context window
     * @param prefixCache whether a prompt that begins as the one before takes what that left in the KV cache
     */
    static String json(Path weights, String library, int contextWindowSize, boolean prefixCache) {
        JSONObject config = new JSONObject();
        try {
            config.put("model", weights.toString());
            config.put("model_lib", "system://" + library);
            config.put("mode", "interactive");
            config.put("max_num_sequence", 1);
            config.put("max_total_sequence_length", contextWindowSize + SPARE_TOKENS);
            config.put("prefix_cache_mode", prefixCache ? "radix" : "disable");
        } catch (JSONException error) {
            throw new AssertionError(error);
        }
        return Json.ascii(config);
    }
}
