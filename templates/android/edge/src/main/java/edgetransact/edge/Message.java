package edgetransact.edge;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Objects;
import org.jetbrains.annotations.Nullable;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** A message of a conversation. Immutable. */
public final class Message {
    private final String role;
    private final String text;

    private final List<ToolCall> toolCalls;
    private final String toolCallId;

    private Message(String role, String text) {
        this(role, text, Collections.emptyList(), null);
    }

    private Message(String role, String text, List<ToolCall> toolCalls, String toolCallId) {
        this.role = role;
        this.toolCalls = Collections.unmodifiableList(new ArrayList<>(toolCalls));
        this.toolCallId = toolCallId;
        this.text = Objects.requireNonNull(text, "a message needs a text, which may be empty");
    }

    /** What the user said. */
    public static Message user(String text) {
        return new Message("user", text);
    }

    /** What the model answered. */
    public static Message assistant(String text) {
        return new Message("assistant", text);
    }

    /** What the model answered, and which tools it asked for. */
    public static Message assistant(String text, List<ToolCall> toolCalls) {
        return new Message("assistant", text, toolCalls, null);
    }

    /**
     * What a tool said.
     *
     * @param toolCallId the {@link ToolCall#id} of the call
     * @param text its result, such as JSON, or what went wrong
     */
    public static Message tool(String toolCallId, String text) {
        return new Message("tool", text, Collections.emptyList(), Objects.requireNonNull(toolCallId));
    }

    /** Messages as JSON, to keep them: {@link #read} reads it. */
    public static String write(List<Message> messages) {
        try {
            JSONArray list = new JSONArray();
            for (Message message : messages) {
                JSONArray calls = new JSONArray();
                for (ToolCall call : message.toolCalls) {
                    JSONObject of = new JSONObject().put("id", call.id()).put("name", call.name());
                    calls.put(of.put("arguments", call.arguments()));
                }
                list.put(new JSONObject()
                        .put("role", message.role)
                        .put("text", message.text)
                        .put("tool_calls", calls)
                        .put("tool_call_id", message.toolCallId));
            }
            return list.toString();
        } catch (JSONException error) {
            throw new AssertionError(error);
        }
    }

    /**
     * Messages that {@link #write} wrote.
     *
     * @throws IllegalArgumentException it didn't write these
     */
    public static List<Message> read(String json) {
        List<Message> messages = new ArrayList<>();
        try {
            JSONArray list = new JSONArray(json);
            for (int index = 0; index < list.length(); index++) {
                JSONObject message = list.getJSONObject(index);
                List<ToolCall> calls = new ArrayList<>();
                for (int call = 0; call < message.getJSONArray("tool_calls").length(); call++) {
                    JSONObject of = message.getJSONArray("tool_calls").getJSONObject(call);
                    calls.add(new ToolCall(of.getString("id"), of.getString("name"), of.getString("arguments")));
                }
                String role = message.getString("role");
                if (!role.equals("user") && !role.equals("assistant") && !role.equals("tool")) {
                    throw new JSONException("no role of a message: " + role);
                }
                String toolCallId = role.equals("tool") ? message.getString("tool_call_id") : null;
                messages.add(new Message(role, message.getString("text"), calls, toolCallId));
            }
        } catch (JSONException error) {
            throw new IllegalArgumentException("not written by Message.write: " + error.getMessage(), error);
        }
        return messages;
    }

    static Message system(String text) {
        return new Message("system", text);
    }

    /** {@code user}, {@code assistant} or {@code tool}. */
    public String role() {
        return role;
    }

    /** Its text. */
    public String text() {
        return text;
    }

    /** The tools that the model asks for; empty if it doesn't. */
    public List<ToolCall> toolCalls() {
        return toolCalls;
    }

    /** The call that this is the result of; null if it isn't one. */
    @Nullable
    public String toolCallId() {
        return toolCallId;
    }

    /** Its text as the model sees it. */
    String content() {
        if (toolCallId != null) {
            return "<tool_response>\n" + text + "\n</tool_response>";
        }
        StringBuilder content = new StringBuilder(text);
        for (ToolCall call : toolCalls) {
            content.append(content.length() == 0 || content.charAt(content.length() - 1) == '\n' ? "" : "\n");
            content.append(call.text());
        }
        return content.toString();
    }

    boolean isUser() {
        return role.equals("user");
    }

    boolean isAssistant() {
        return role.equals("assistant");
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof Message
                && role.equals(((Message) other).role)
                && text.equals(((Message) other).text)
                && toolCalls.equals(((Message) other).toolCalls)
                && Objects.equals(toolCallId, ((Message) other).toolCallId);
    }

    @Override
    public int hashCode() {
        return Objects.hash(role, text, toolCalls, toolCallId);
    }

    @Override
    public String toString() {
        return role + ": " + text;
    }
}
