package edgetransact.edge;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.jetbrains.annotations.Nullable;

/**
 * How the tokens of an answer are chosen, and where it ends. What isn't set is as the model's configuration says.
 * Immutable.
 *
 * <p>Names and ranges are those of MLC-LLM's requests ({@code cpp/serve/config.cc}).
 */
public final class Sampling {
    /** All as the model's configuration says. */
    public static final Sampling DEFAULT = builder().build();

    private static final String AUTO = "auto";
    private static final String NONE = "none";

    private final Double temperature;
    private final Double topP;
    private final Double frequencyPenalty;
    private final Double presencePenalty;
    private final Integer seed;
    private final Integer maxTokens;
    private final List<String> stop;
    private final String jsonSchema;
    private final List<Tool> tools;
    private final String toolChoice;

    private Sampling(Builder from) {
        temperature = from.temperature;
        topP = from.topP;
        frequencyPenalty = from.frequencyPenalty;
        presencePenalty = from.presencePenalty;
        seed = from.seed;
        maxTokens = from.maxTokens;
        stop = from.stop;
        jsonSchema = from.jsonSchema;
        tools = from.tools;
        toolChoice = from.toolChoice;
        if (!AUTO.equals(toolChoice) && !NONE.equals(toolChoice) && tool() == null) {
            throw new IllegalArgumentException("toolChoice is auto, none or a tool's name, not " + toolChoice);
        }
        if (jsonSchema != null && !toldTools().isEmpty()) {
            throw new IllegalArgumentException("an answer in jsonSchema can't ask for tools: set one of both");
        }
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
        builder.jsonSchema = jsonSchema;
        builder.tools = tools;
        builder.toolChoice = toolChoice;
        return builder;
    }

    /** 0 for the likeliest token each time, larger for more surprises; or null. */
    @Nullable
    public Double temperature() {
        return temperature;
    }

    /** Only the likeliest tokens that have this probability together; or null. */
    @Nullable
    public Double topP() {
        return topP;
    }

    /** Larger for fewer repetitions, the more often a token was said; or null. */
    @Nullable
    public Double frequencyPenalty() {
        return frequencyPenalty;
    }

    /** Larger for fewer repetitions of whatever was said once; or null. */
    @Nullable
    public Double presencePenalty() {
        return presencePenalty;
    }

    /** The same answer to the same conversation each time; or null. */
    @Nullable
    public Integer seed() {
        return seed;
    }

    /** The most tokens of an answer; or null. */
    @Nullable
    public Integer maxTokens() {
        return maxTokens;
    }

    /** Texts that end an answer, which doesn't contain them; may be empty. */
    public List<String> stop() {
        return stop;
    }

    /** The JSON schema that an answer has; or null. */
    @Nullable
    public String jsonSchema() {
        return jsonSchema;
    }

    /** What the model may ask for; may be empty. */
    public List<Tool> tools() {
        return tools;
    }

    /** {@code auto}, {@code none}, or the name of the tool that the model has to ask for. */
    public String toolChoice() {
        return toolChoice;
    }

    /** The tool that the model has to ask for, or null. */
    Tool tool() {
        for (Tool tool : tools) {
            if (tool.name().equals(toolChoice)) {
                return tool;
            }
        }
        return null;
    }

    /** The tools that the model is told of. */
    List<Tool> toldTools() {
        if (NONE.equals(toolChoice)) {
            return Collections.emptyList();
        }
        return tool() == null ? tools : Collections.singletonList(tool());
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
        private String jsonSchema;
        private List<Tool> tools = Collections.emptyList();
        private String toolChoice = AUTO;

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

        /**
         * Has answers be JSON of a schema. The engine allows no token that would break it; it ends if it doesn't
         * understand the schema. Tell the model what you want all the same.
         *
         * @param schema a JSON schema, an object; <code>{}</code> for any JSON
         */
        public Builder jsonSchema(String schema) {
            jsonSchema = schema == null ? null : Json.object("jsonSchema", schema).toString();
            return this;
        }

        /** @param list no two of one name */
        public Builder tools(List<Tool> list) {
            Set<String> names = new HashSet<>();
            for (Tool tool : list == null ? Collections.<Tool>emptyList() : list) {
                if (!names.add(tool.name())) {
                    throw new IllegalArgumentException("two tools are called " + tool.name());
                }
            }
            tools = list == null ? Collections.emptyList() : Collections.unmodifiableList(new ArrayList<>(list));
            return this;
        }

        /** @param choice {@code auto}, {@code none}, or the name of the tool that the model has to ask for */
        public Builder toolChoice(String choice) {
            toolChoice = choice == null ? AUTO : choice;
            return this;
        }

        /**
         * What was set so far.
         *
         * @throws IllegalArgumentException it doesn't fit together
         */
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
