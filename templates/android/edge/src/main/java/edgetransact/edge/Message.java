package edgetransact.edge;

/** A message of a conversation. Immutable. */
public final class Message {
    private final String role;
    private final String text;

    Message(String role, String text) {
        this.role = role;
        this.text = text;
    }

    /** {@code user} or {@code assistant}. */
    public String role() {
        return role;
    }

    /** Its text. */
    public String text() {
        return text;
    }
}
