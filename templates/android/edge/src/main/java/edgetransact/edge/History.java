package edgetransact.edge;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * The turns of a conversation, and how many tokens they take.
 *
 * <p>Only the engine can count tokens, and it tells the prompt's after the answer. Text that it hasn't counted is taken
 * for as many tokens as it has bytes: few tokenizers make more of a text, and many make a quarter. Where that would
 * leave turns out, {@link Draft#uncounted} says that counting is worth while. What doesn't fit, the engine refuses.
 *
 * <p>Not thread-safe.
 */
final class History {
    /** What a template puts after an answer, when another turn follows. */
    private static final int SEPARATOR_TOKENS = 8;

    /** Room for an answer, if nobody says how long it may be. */
    private static final int ANSWER_TOKENS = 256;

    /** More than most tokenizers make a token of. */
    private static final int MOST_BYTES_PER_TOKEN = 6;

    /** What begins with a message of the user and goes on to the next, or comes before the first of them. */
    private static final class Turn {
        private final List<Message> messages;
        private int tokens;
        private boolean counted;

        private Turn(List<Message> messages, int tokens) {
            this.messages = messages;
            this.tokens = tokens;
        }
    }

    private final List<Turn> turns = new ArrayList<>();
    private final List<Message> system;
    private final int templateTokens;
    private final int promptTokens;

    /** The most tokens of a prompt besides its turns. */
    private int baseTokens;

    /** Turns before this one are left out of prompts. */
    private int first;

    /**
     * @param templateTokens the most tokens that a prompt has besides the system's and its messages' text
     * @param contextWindowSize the most tokens of a prompt and its answer
     * @param answerTokens the most tokens of an answer, or null
     * @param system what the model is told before all messages, or null
     * @param restored messages of earlier, oldest first
     */
    History(int templateTokens, int contextWindowSize, Integer answerTokens, String system, List<Message> restored) {
        this.templateTokens = templateTokens;
        this.promptTokens = contextWindowSize
                - (answerTokens == null
                        ? Math.min(ANSWER_TOKENS, contextWindowSize / 4)
                        : Math.min(answerTokens, contextWindowSize / 2));
        this.system = system == null ? Collections.emptyList() : Collections.singletonList(Message.system(system));
        baseTokens = templateTokens + (system == null ? 0 : bytes(system));
        for (Message message : restored) {
            if (turns.isEmpty() || message.isUser()) {
                turns.add(new Turn(new ArrayList<>(), 0));
            }
            turns.get(turns.size() - 1).messages.add(message);
        }
        for (Turn turn : turns) {
            turn.tokens = most(turn.messages);
        }
    }

    /** All messages, oldest first. */
    List<Message> messages() {
        return messages(0, turns.size());
    }

    /** How many of the oldest messages prompts no longer have. */
    int leftOut() {
        return messages(0, first).size();
    }

    /** The next messages, which an answer is wanted for: the user's, or results of tools in the present turn. */
    Draft draft(List<Message> messages) {
        if (messages.isEmpty() || messages.stream().anyMatch(Message::isAssistant)) {
            throw new IllegalArgumentException("messages of the user or of tools can be sent: " + messages);
        }
        int last = turns.size() - 1;
        if (messages.get(0).isUser() || last < 0) {
            return new Draft(turns.size(), messages);
        }
        List<Message> prompt = new ArrayList<>(turns.get(last).messages);
        prompt.addAll(messages);
        return new Draft(last, prompt);
    }

    /** The last message that isn't an answer, or null if there is none: what came after it will be replaced. */
    Draft again() {
        int last = turns.size() - 1;
        List<Message> prompt = last < 0 ? new ArrayList<>() : new ArrayList<>(turns.get(last).messages);
        while (!prompt.isEmpty() && prompt.get(prompt.size() - 1).isAssistant()) {
            prompt.remove(prompt.size() - 1);
        }
        return prompt.isEmpty() ? null : new Draft(last, prompt);
    }

    /** Forgets all turns. */
    void clear() {
        turns.clear();
        first = 0;
    }

    /** A prompt in the making. It changes nothing until it is {@link #answered}. */
    final class Draft {
        private final int end;
        private final Turn turn;
        private int from;

        /** @param end the turns before it are those of this prompt */
        private Draft(int end, List<Message> prompt) {
            this.end = end;
            turn = new Turn(prompt, most(prompt));
            from = Math.min(first, end);
        }

        /** Leaves out so many of the oldest turns that it and an answer fit, as far as is known. */
        void fit() {
            while (from < end && baseTokens + tokens(from, end) + turn.tokens > promptTokens) {
                from++;
            }
        }

        /**
         * Whether turns that may have to be left out should be counted first. Those that certainly don't fit are left
         * out.
         */
        boolean uncounted() {
            if (baseTokens + tokens(from, end) + turn.tokens <= promptTokens) {
                return false;
            }
            boolean uncounted = false;
            for (Turn each : turns.subList(from, end)) {
                uncounted |= !each.counted;
            }
            while (uncounted && from < end && least(from) > promptTokens) {
                from++;
            }
            return uncounted && from < end;
        }

        /** Leaves out one more of the oldest turns, if there is one. */
        boolean shorten() {
            boolean some = from < end;
            from += some ? 1 : 0;
            return some;
        }

        /** Its messages, the system's first. */
        List<Message> messages() {
            List<Message> messages = new ArrayList<>(system);
            messages.addAll(History.this.messages(from, end));
            messages.addAll(turn.messages);
            return messages;
        }

        /** The engine counted the prompt. */
        void counted(int tokens) {
            spread(from, end, turn, tokens);
        }

        /**
         * Adds the turn.
         *
         * @param answer what will be part of prompts
         * @param said what the engine counted
         * @param usage its counts, or null if it didn't
         */
        void answered(Message answer, String said, Usage usage) {
            List<Message> messages = new ArrayList<>(turn.messages);
            messages.add(answer);
            Turn added = new Turn(messages, most(messages));
            if (usage != null) {
                boolean whole = answer.content().equals(said);
                int answerTokens = (whole ? usage.completionTokens() : bytes(answer.content())) + SEPARATOR_TOKENS;
                spread(from, end, added, usage.promptTokens() + answerTokens);
                added.counted = whole;
            }
            turns.subList(end, turns.size()).clear();
            turns.add(added);
            first = from;
        }

        private int least(int start) {
            int least = turn.tokens / MOST_BYTES_PER_TOKEN;
            for (Turn each : turns.subList(start, end)) {
                least += each.counted ? each.tokens : each.tokens / MOST_BYTES_PER_TOKEN;
            }
            return least;
        }
    }

    /** Takes what was counted of some turns and another one apart: what isn't known of them, by the sizes of texts. */
    private void spread(int from, int end, Turn last, int counted) {
        List<Turn> unknown = new ArrayList<>(Collections.singletonList(last));
        baseTokens = Math.min(baseTokens, counted);
        long rest = counted - baseTokens;
        long sizes = last.tokens;
        for (Turn turn : turns.subList(from, end)) {
            if (turn.counted) {
                rest -= turn.tokens;
            } else {
                unknown.add(turn);
                sizes += turn.tokens;
            }
        }
        for (Turn turn : unknown) {
            turn.tokens = (int) ((Math.max(0, rest) * turn.tokens + sizes - 1) / sizes);
            turn.counted = true;
        }
    }

    private List<Message> messages(int from, int end) {
        List<Message> messages = new ArrayList<>();
        for (Turn turn : turns.subList(from, end)) {
            messages.addAll(turn.messages);
        }
        return messages;
    }

    private int tokens(int from, int end) {
        int tokens = 0;
        for (Turn turn : turns.subList(from, end)) {
            tokens += turn.tokens;
        }
        return tokens;
    }

    /** The most tokens of a turn's messages, with what the template puts around them. */
    private int most(List<Message> messages) {
        int tokens = (messages.size() + 1) / 2 * (templateTokens + SEPARATOR_TOKENS);
        for (Message message : messages) {
            tokens += bytes(message.content());
        }
        return tokens;
    }

    private static int bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8).length;
    }
}
