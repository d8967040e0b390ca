package edgetransact.edge;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * How the tokens of an answer are chosen, and where it ends. What isn't set is as the model's configuration says.
 * Immutable.
 *
 * <p>Names and ranges are those of MLC-LLM's requests ({@code cpp/serve/config.cc}).
 */
public final class Sampling {
    /** All as the model's configuration says. */
    public static final Sampling DEFAULT = builder().build();

    private final Double temperature;
    private final Double topP;
    private final Double frequencyPenalty;
    private final Double presencePenalty;
    private final Integer seed;
    private final Integer maxTokens;
    private final List<String> stop;

    private Sampling(Builder from) {
        temperature = from.temperature;
        topP = from.topP;
        frequencyPenalty = from.frequencyPenalty;
        presencePenalty = from.presencePenalty;
        seed = from.seed;
        maxTokens = from.maxTokens;
        stop = from.stop;
    }

    /** Begins with nothing set. */
    public static Builder builder() {
        return new Builder();
    }

    /** Begins with what is set here. */
    public Builder change() {
        Builder builder = new Builder();
        builder.temperature = temperature;
        builder.topP = topP;
        builder.frequencyPenalty = frequencyPenalty;
        builder.presencePenalty = presencePenalty;
        builder.seed = seed;
        builder.maxTokens = maxTokens;
        builder.stop = stop;
        return builder;
    }

    /** 0 for the likeliest token each time, larger for more surprises; or null. */
    public Double temperature() {
        return temperature;
    }

    /** Only the likeliest tokens that have this probability together; or null. */
    public Double topP() {
        return topP;
    }

    /** Larger for fewer repetitions, the more often a token was said; or null. */
    public Double frequencyPenalty() {
        return frequencyPenalty;
    }

    /** Larger for fewer repetitions of whatever was said once; or null. */
    public Double presencePenalty() {
        return presencePenalty;
    }

    /** The same answer to the same conversation each time; or null. */
    public Integer seed() {
        return seed;
    }

    /** The most tokens of an answer; or null. */
    public Integer maxTokens() {
        return maxTokens;
    }

    /** Texts that end an answer, which doesn't contain them; may be empty. */
    public List<String> stop() {
        return stop;
    }

    /** Makes a {@link Sampling}. Null takes back what was set. */
    public static final class Builder {
        private Double temperature;
        private Double topP;
        private Double frequencyPenalty;
        private Double presencePenalty;
        private Integer seed;
        private Integer maxTokens;
        private List<String> stop = Collections.emptyList();

        private Builder() {}

        /** @param value 0 or more */
        public Builder temperature(Double value) {
            temperature = between("temperature", value, 0, Double.MAX_VALUE);
            return this;
        }

        /** @param value from 0 to 1 */
        public Builder topP(Double value) {
            topP = between("topP", value, 0, 1);
            return this;
        }

        /** @param value from -2 to 2 */
        public Builder frequencyPenalty(Double value) {
            frequencyPenalty = between("frequencyPenalty", value, -2, 2);
            return this;
        }

        /** @param value from -2 to 2 */
        public Builder presencePenalty(Double value) {
            presencePenalty = between("presencePenalty", value, -2, 2);
            return this;
        }

        /** @param value any number */
        public Builder seed(Integer value) {
            seed = value;
            return this;
        }

        /** @param value 1 or more */
        public Builder maxTokens(Integer value) {
            if (value != null && value < 1) {
                throw new IllegalArgumentException("maxTokens must be 1 or more, not " + value);
            }
            maxTokens = value;
            return this;
        }

        /** @param texts none of them empty */
        public Builder stop(List<String> texts) {
            List<String> copy = new ArrayList<>();
            for (String text : texts == null ? Collections.<String>emptyList() : texts) {
                if (text == null || text.isEmpty()) {
                    throw new IllegalArgumentException("stop must have no empty text: every answer would end there");
                }
                copy.add(text);
            }
            stop = Collections.unmodifiableList(copy);
            return this;
        }

        /** What was set so far. */
        public Sampling build() {
            return new Sampling(this);
        }

        private static Double between(String name, Double value, double least, double most) {
            if (value != null && !(value >= least && value <= most)) {
                String range = most == Double.MAX_VALUE ? "0 or more" : "from " + (int) least + " to " + (int) most;
                throw new IllegalArgumentException(name + " must be " + range + ", not " + value);
            }
            return value;
        }
    }
}
