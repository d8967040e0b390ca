package edgetransact.edge;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** One answer of a run, and how long it took. */
final class BenchAnswer implements LoadedEngine.Answer {
    private final CompletableFuture<Void> complete = new CompletableFuture<>();
    private final StringBuilder text = new StringBuilder();
    private final List<Long> steps = new ArrayList<>();
    private final long start = System.nanoTime();
    private long end;
    private JSONObject usage;

    @Override
    public void step() {
        steps.add(System.nanoTime());
    }

    @Override
    public void text(String delta) {
        text.append(delta);
    }

    @Override
    public void done(String finishReason, JSONObject counted) {
        end = System.nanoTime();
        usage = counted;
        complete.complete(null);
    }

    @Override
    public void failed(EdgeException error) {
        complete.completeExceptionally(error);
    }

    /**
     * Waits until it is complete.
     *
     * @param deadline until when at the latest, in {@link System#nanoTime}
     */
    BenchAnswer await(long deadline) throws EdgeException, InterruptedException, TimeoutException {
        try {
            complete.get(deadline - System.nanoTime(), TimeUnit.NANOSECONDS);
            return this;
        } catch (ExecutionException error) {
            throw (EdgeException) error.getCause();
        }
    }

    /** Its text. The engine tells no token ids. */
    String text() {
        return text.toString();
    }

    /** The fields of {@code RepetitionLine} that an answer knows. */
    JSONObject measurement() throws JSONException {
        int tokens = usage.getInt("completion_tokens");
        JSONObject extra = usage.getJSONObject("extra");
        double prefill = extra.getDouble("ttft_s");
        return new JSONObject()
                .put("prefill_tokens", usage.getInt("prompt_tokens"))
                .put("decode_tokens", tokens)
                .put("ttft_s", seconds(start, steps.get(0)))
                .put("prefill_s", prefill)
                .put("decode_s", extra.getDouble("end_to_end_latency_s") - prefill)
                .put("decode_steps_s", decodeSteps(tokens))
                .put("e2e_s", seconds(start, end))
                .put("tokens", JSONObject.NULL)
                .put("text", text.toString());
    }

    /** The time between callbacks, which is that of a token if there was one callback for each; otherwise null. */
    private Object decodeSteps(int tokens) throws JSONException {
        if (steps.size() != tokens) {
            return JSONObject.NULL;
        }
        JSONArray durations = new JSONArray();
        for (int index = 1; index < tokens; index++) {
            durations.put(seconds(steps.get(index - 1), steps.get(index)));
        }
        return durations;
    }

    private static double seconds(long from, long to) {
        return (to - from) / 1e9;
    }
}
