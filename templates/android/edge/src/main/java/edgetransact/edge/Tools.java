package edgetransact.edge;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Takes a model's calls of tools out of the text of its answer, while that is being said.
 *
 * <p>MLC's engine tells models of a request's {@code tools} only where the template has {@code {function_string}}, which
 * none of edge-transact's has, and never makes {@code tool_calls} of an answer. So the system's message tells of them, in
 * the words of Qwen's and Hermes's chat templates, and calls are found in the text.
 */
final class Tools {
    static final String CALL = "<tool_call>";
    static final String CALL_END = "</tool_call>";

    private static final Pattern CALLS = Pattern.compile(
            "\\s*" + CALL + "\\s*(\\{.*?\\})\\s*(?:" + CALL_END + "\\s*|$)", Pattern.DOTALL);

    private final List<Tool> tools;
    private final Tool only;
    private final StringBuilder said = new StringBuilder();
    private int told;
    private List<ToolCall> calls = Collections.emptyList();

    Tools(Sampling sampling) {
        only = sampling.tool();
        tools = sampling.toldTools();
    }

    /** A system's message, or null, with what it says of tools, if there are any. */
    static String tell(String system, List<Tool> tools) {
        if (tools.isEmpty()) {
            return system;
        }
        StringBuilder text = new StringBuilder(system == null ? "" : system + "\n\n");
        text.append("# Tools\n\n"
                + "You may call one or more functions to assist with the user query.\n\n"
                + "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n");
        for (Tool tool : tools) {
            try {
                text.append(tool.json()).append('\n');
            } catch (JSONException error) {
                throw new AssertionError(error);
            }
        }
        return text.append("</tools>\n\nFor each function call, return a json object with function name and arguments "
                        + "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
                        + "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>")
                .toString();
    }

    /** The next piece of the answer; returns what of it is surely text. */
    String add(String delta) {
        said.append(delta);
        if (only != null) {
            return "";
        }
        int end = said.length();
        if (!tools.isEmpty()) {
            int call = said.indexOf(CALL);
            for (int held = CALL.length() - 1; call < 0; held--) {
                if (said.length() >= held && said.indexOf(CALL.substring(0, held), said.length() - held) >= 0) {
                    call = said.length() - held; // it may be the beginning of a call; with 0, it isn't
                }
            }
            end = call;
        }
        return tell(Math.max(told, end));
    }

    /** The answer is over; returns what was held back and is text after all. */
    String end() {
        if (only != null) {
            calls = call(only.name(), said.toString());
        } else {
            calls = find(said.substring(told));
        }
        return calls.isEmpty() ? tell(said.length()) : "";
    }

    /** The calls in the answer, once it is over. */
    List<ToolCall> calls() {
        return calls;
    }

    /** All that was said. */
    String said() {
        return said.toString();
    }

    /** What was said besides calls, once the answer is over. */
    String text() {
        return said.substring(0, told);
    }

    private String tell(int end) {
        String text = said.substring(told, end);
        told = end;
        return text;
    }

    /** The calls of a text that has nothing else. */
    private List<ToolCall> find(String text) {
        List<ToolCall> found = new ArrayList<>();
        Matcher matcher = CALLS.matcher(text);
        int end = 0;
        while (matcher.find() && matcher.start() == end) {
            try {
                JSONObject call = new JSONObject(matcher.group(1));
                found.addAll(call(call.getString("name"), call.getString("arguments")));
            } catch (JSONException error) {
                return Collections.emptyList();
            }
            end = matcher.end();
        }
        return end == text.length() ? found : Collections.emptyList();
    }

    private List<ToolCall> call(String name, String arguments) {
        for (Tool tool : tools) {
            if (tool.name().equals(name)) {
                try {
                    return Collections.singletonList(new ToolCall(UUID.randomUUID().toString(), name, arguments));
                } catch (IllegalArgumentException error) {
                    break;
                }
            }
        }
        return Collections.emptyList();
    }
}
