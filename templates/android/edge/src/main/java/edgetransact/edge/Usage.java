package edgetransact.edge;

import org.jetbrains.annotations.Nullable;
import org.json.JSONObject;

/** What an answer took, as the engine says. Immutable. */
public final class Usage {
    private final int promptTokens;
    private final int completionTokens;
    private final Double prefillTokensPerSecond;
    private final Double decodeTokensPerSecond;
    private final Double secondsToFirstToken;

    private Usage(int promptTokens, int completionTokens, Double prefill, Double decode, Double first) {
        this.promptTokens = promptTokens;
        this.completionTokens = completionTokens;
        this.prefillTokensPerSecond = prefill;
        this.decodeTokensPerSecond = decode;
        this.secondsToFirstToken = first;
    }

    static Usage read(JSONObject usage) {
        JSONObject extra = usage.optJSONObject("extra");
        return new Usage(
                usage.optInt("prompt_tokens"),
                usage.optInt("completion_tokens"),
                number(extra, "prefill_tokens_per_s"),
                number(extra, "decode_tokens_per_s"),
                number(extra, "ttft_s"));
    }

    /** The same, but for a time that was measured from the message on. */
    Usage after(Double seconds) {
        return new Usage(promptTokens, completionTokens, prefillTokensPerSecond, decodeTokensPerSecond, seconds);
    }

    /** A number of an object, or null if it isn't there. */
    static Double number(JSONObject object, String name) {
        double value = object == null ? Double.NaN : object.optDouble(name);
        return Double.isNaN(value) ? null : value;
    }

    /** Tokens of the prompt: the conversation so far, with its template. */
    public int promptTokens() {
        return promptTokens;
    }

    /** Tokens of the answer. */
    public int completionTokens() {
        return completionTokens;
    }

    /** Prompt tokens per second, without those that the prefix cache held; null if there were none. */
    @Nullable
    public Double prefillTokensPerSecond() {
        return prefillTokensPerSecond;
    }

    /** Answer tokens per second after the first; null if there were none. */
    @Nullable
    public Double decodeTokensPerSecond() {
        return decodeTokensPerSecond;
    }

    /** Seconds from the message to the first token of the answer. */
    @Nullable
    public Double secondsToFirstToken() {
        return secondsToFirstToken;
    }
}
