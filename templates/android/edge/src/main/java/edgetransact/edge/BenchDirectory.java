package edgetransact.edge;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * A model whose prompts are token ids.
 *
 * <p>Chat messages are text. But MLC puts the ids in {@code system_prefix_token_ids} of a model's conversation template
 * in front of them, so a directory with a template that has these and nothing else runs exactly this prompt. The other
 * files are links to the model's.
 */
final class BenchDirectory {
    private static final String CONFIG = "mlc-chat-config.json";

    private BenchDirectory() {}

    /** Makes {@code directory}, which must not exist. */
    static void make(Path directory, Model model, Path weights, int[] prompt) throws IOException, JSONException {
        Files.createDirectories(directory);
        for (Model.File file : model.files()) {
            if (!file.path().equals(CONFIG)) {
                Files.createSymbolicLink(directory.resolve(file.path()), weights.resolve(file.path()));
            }
        }
        String text = new String(Files.readAllBytes(weights.resolve(CONFIG)), StandardCharsets.UTF_8);
        JSONObject config = new JSONObject(text).put("conv_template", template(prompt));
        Files.write(directory.resolve(CONFIG), Json.ascii(config).getBytes(StandardCharsets.US_ASCII));
    }

    private static JSONObject template(int[] prompt) throws JSONException {
        JSONArray ids = new JSONArray();
        for (int id : prompt) {
            ids.put(id);
        }
        return new JSONObject()
                .put("name", "edge-transact bench")
                .put("system_template", "")
                .put("system_message", "")
                .put("system_prefix_token_ids", ids)
                .put("add_role_after_system_message", true)
                .put("roles", new JSONObject().put("user", "").put("assistant", "").put("tool", ""))
                .put("messages", new JSONArray())
                .put("seps", new JSONArray().put(""))
                .put("role_content_sep", "")
                .put("role_empty_sep", "")
                .put("stop_str", new JSONArray())
                .put("stop_token_ids", new JSONArray());
    }
}
