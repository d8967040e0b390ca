@file:JvmName("Samplings")

package edgetransact.edge

/**
 * How the tokens of an answer are chosen, and where it ends; what is null is as the model's configuration says. The
 * same as [Sampling.builder], which Java calls.
 *
 * @param temperature 0 for the likeliest token each time, larger for more surprises.
 * @param topP from 0 to 1: only the likeliest tokens that have this probability together.
 * @param frequencyPenalty from -2 to 2: larger for fewer repetitions, the more often a token was said.
 * @param presencePenalty from -2 to 2: larger for fewer repetitions of whatever was said once.
 * @param seed the same answer to the same conversation each time.
 * @param maxTokens the most tokens of an answer.
 * @param stop texts that end an answer, which doesn't contain them.
 * @param jsonSchema the JSON schema that an answer has, `{}` for any JSON.
 * @param tools what the model may ask for.
 * @param toolChoice `auto`, `none`, or the name of the tool that the model has to ask for.
 * @throws IllegalArgumentException a value is out of its range, or two don't fit together.
 */
@JvmSynthetic
public fun Sampling(
    temperature: Double? = null,
    topP: Double? = null,
    frequencyPenalty: Double? = null,
    presencePenalty: Double? = null,
    seed: Int? = null,
    maxTokens: Int? = null,
    stop: List<String> = emptyList(),
    jsonSchema: String? = null,
    tools: List<Tool> = emptyList(),
    toolChoice: String? = null,
): Sampling =
    Sampling.builder()
        .temperature(temperature)
        .topP(topP)
        .frequencyPenalty(frequencyPenalty)
        .presencePenalty(presencePenalty)
        .seed(seed)
        .maxTokens(maxTokens)
        .stop(stop)
        .jsonSchema(jsonSchema)
        .tools(tools)
        .toolChoice(toolChoice)
        .build()
