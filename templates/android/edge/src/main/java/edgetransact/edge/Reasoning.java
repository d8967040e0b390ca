package edgetransact.edge;

/** What models that reason write before their answer, between {@code <think>} and {@code </think>}. */
public final class Reasoning {
    private static final String BEGIN = "<think>";
    private static final String END = "</think>";

    private Reasoning() {}

    /** The answer in what a model has said so far; empty while it reasons. */
    public static String answer(String said) {
        int end = said.indexOf(END);
        if (end < 0) {
            return said.startsWith(BEGIN) ? "" : said;
        }
        return said.substring(end + END.length()).replaceFirst("^\\n+", "");
    }

    /** What to show of it: the answer, or the reasoning before there is one. */
    public static String shown(String said) {
        String answer = answer(said);
        return answer.isEmpty() ? said.replace(BEGIN, "").replace(END, "").trim() : answer;
    }
}
