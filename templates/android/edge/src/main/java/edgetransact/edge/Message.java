package edgetransact.edge;

import java.util.Objects;

/** A message of a conversation. Immutable. */
public final class Message {
    private final String role;
    private final String text;

    private Message(String role, String text) {
        this.role = role;
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

    static Message system(String text) {
        return new Message("system", text);
    }

    /** {@code user} or {@code assistant}. */
    public String role() {
        return role;
    }

    /** Its text. */
    public String text() {
        return text;
    }

    boolean isUser() {
        return role.equals("user");
    }

    boolean isAssistant() {
        return role.equals("assistant");
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof Message && role.equals(((Message) other).role) && text.equals(((Message) other).text);
    }

    @Override
    public int hashCode() {
        return Objects.hash(role, text);
    }

    @Override
    public String toString() {
        return role + ": " + text;
    }
}
