package edgetransact.edge;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** What a run is asked for: {@code AppRequest} of {@code edge_transact/benchmarking/records/requests.py}, field by field. */
final class BenchRequest {
    final String run;
    final String modelLib;
    final int[] prompt;
    final int decodeTokens;
    final int repetitions;
    final int warmups;
    /** The prompt of the parity record, or null. */
    final int[] checkPrompt;
    /** The length of its answer. */
    final int checkTokens;
    final double timeoutS;

    private BenchRequest(JSONObject json) throws JSONException {
        run = json.getString("run");
        modelLib = json.getString("model_lib");
        prompt = ids(json.getJSONArray("prompt"));
        decodeTokens = json.getInt("decode_tokens");
        repetitions = json.getInt("repetitions");
        warmups = json.getInt("warmups");
        JSONArray check = json.isNull("check") ? null : json.getJSONArray("check");
        checkPrompt = check == null ? null : ids(check.getJSONArray(0));
        checkTokens = check == null ? 0 : check.getJSONArray(1).length();
        timeoutS = json.getDouble("timeout_s");
    }

    static BenchRequest read(Path file) throws IOException, JSONException {
        return new BenchRequest(new JSONObject(new String(Files.readAllBytes(file), StandardCharsets.UTF_8)));
    }

    private static int[] ids(JSONArray array) throws JSONException {
        int[] ids = new int[array.length()];
        for (int index = 0; index < ids.length; index++) {
            ids[index] = array.getInt(index);
        }
        return ids;
    }
}
