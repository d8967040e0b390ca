package edgetransact.edge;

import java.util.List;
import org.jetbrains.annotations.Nullable;

/**
 * Hears an answer. Methods are called one at a time: texts in their order, then once {@code done} or {@code failed},
 * then nothing. They run on the engine's thread, or on one that is calling a method of the conversation, and must not block.
 */
public interface Listener {
    /** The next piece of the answer: whole characters, at least one. */
    void text(String delta);

    /**
     * The model asks for tools. {@code done} with {@code TOOL_CALLS} follows; then go on with {@link
     * Conversation#send(java.util.List, Listener)} and a {@link Message#tool} for each call.
     */
    default void toolCalls(List<ToolCall> calls) {}

    /**
     * The answer is complete.
     *
     * @param usage what it took; null if it was stopped, because the engine then doesn't say
     */
    void done(Finish finish, @Nullable Usage usage);

    /** There is no answer, or no more of it. The conversation is as it was before the message. */
    void failed(EdgeException error);
}
