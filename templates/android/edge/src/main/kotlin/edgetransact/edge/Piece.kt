package edgetransact.edge

/**
 * A piece of an answer.
 *
 * @property delta the next text of the answer: whole characters. Empty in the last piece, unless there is more to say.
 * @property finish why the answer ended, in the last piece; null in those before.
 * @property usage what the answer took, in the last piece; null in those before, and if the answer was stopped, because
 *   the engine then doesn't say.
 * @property toolCalls the tools that the model asks for, in a last piece with [Finish.TOOL_CALLS]; empty otherwise. Go
 *   on with [Chat.send] and a [Message.tool] for each of them.
 */
public class Piece @JvmOverloads constructor(
    public val delta: String,
    public val finish: Finish? = null,
    public val usage: Usage? = null,
    public val toolCalls: List<ToolCall> = emptyList(),
) {
    override fun toString(): String = if (finish == null) delta else "$delta ($finish)"
}
