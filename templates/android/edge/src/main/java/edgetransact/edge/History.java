package edgetransact.edge;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/**
 * The turns of a conversation, and how many tokens they take.
 *
 * <p>Only the engine can count tokens, and it tells the prompt's after the answer. So past turns are known, and new text
 * is taken for as many tokens as it has bytes. Few tokenizers make more of a text, and many make a quarter: old turns may
 * go early, so that the answer has room, and a long message alone is still tried. What doesn't fit, the engine refuses.
 *
 * <p>Not thread-safe.
 */
final class History {
    /** What a template puts after an answer, when another turn follows. */
    private static final int SEPARATOR_TOKENS = 8;

    /** Room for an answer. */
    private static final int ANSWER_TOKENS = 256;

    private static final class Turn {
        private final String question;
        private final String answer;
        private final int tokens;

        private Turn(String question, String answer, int tokens) {
            this.question = question;
            this.answer = answer;
            this.tokens = tokens;
        }
    }

    private final List<Turn> turns = new ArrayList<>();
    private final int templateTokens;
    private final int promptTokens;

    /**
     * @param templateTokens the most tokens that a prompt has besides its turns and its last message's text
     * @param contextWindowSize the most tokens of a prompt and its answer
     */
    History(int templateTokens, int contextWindowSize) {
        this.templateTokens = templateTokens;
        this.promptTokens = contextWindowSize - Math.min(ANSWER_TOKENS, contextWindowSize / 4);
    }

    /** How many of the oldest turns have to go, so that a message and its answer fit. */
    int excess(String question) {
        long tokens = (long) templateTokens + bytes(question) + tokens(0);
        int excess = 0;
        while (excess < turns.size() && tokens > promptTokens) {
            tokens -= turns.get(excess++).tokens;
        }
        return excess;
    }

    /** The number of turns. */
    int size() {
        return turns.size();
    }

    /** The messages of all turns but the oldest {@code from}. */
    List<Message> messages(int from) {
        List<Message> messages = new ArrayList<>();
        for (Turn turn : turns.subList(from, turns.size())) {
            messages.add(new Message("user", turn.question));
            messages.add(new Message("assistant", turn.answer));
        }
        return messages;
    }

    /**
     * Adds a turn, without the reasoning in its answer.
     *
     * @param dropped how many of the oldest turns were left out of its prompt; they are forgotten
     * @param usage what the engine counted, or null if it didn't
     */
    void add(String question, String said, int dropped, Usage usage) {
        String answer = Reasoning.answer(said);
        int tokens = templateTokens + bytes(question) + bytes(answer);
        if (usage != null && answer.equals(said)) {
            tokens = Math.max(0, usage.promptTokens() + usage.completionTokens() - tokens(dropped));
        }
        turns.subList(0, dropped).clear();
        turns.add(new Turn(question, answer, tokens + SEPARATOR_TOKENS));
    }

    /** Forgets all turns. */
    void clear() {
        turns.clear();
    }

    private int tokens(int from) {
        int tokens = 0;
        for (Turn turn : turns.subList(from, turns.size())) {
            tokens += turn.tokens;
        }
        return tokens;
    }

    private static int bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8).length;
    }
}
