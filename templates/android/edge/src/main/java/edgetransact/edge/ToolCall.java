package edgetransact.edge;

import java.util.Objects;
import org.json.JSONException;
import org.json.JSONObject;

/** What a model asks of a {@link Tool}. Answer with {@link Message#tool}. Immutable. */
public final class ToolCall {
    private final String id;
    private final String name;
    private final String arguments;

    /**
     * @param id tells it from other calls
     * @param name the tool
     * @param arguments a JSON object
     */
    public ToolCall(String id, String name, String arguments) {
        this.id = id;
        this.name = name;
        this.arguments = Json.object("arguments of " + name, arguments).toString();
    }

    /** Tells it from other calls. */
    public String id() {
        return id;
    }

    /** The tool's name: one of those that the model was told of. */
    public String name() {
        return name;
    }

    /** A JSON object. The model wrote it, so check it as you would check a stranger's. */
    public String arguments() {
        return arguments;
    }

    /** As models write it. */
    String text() {
        try {
            JSONObject call = new JSONObject().put("name", name).put("arguments", new JSONObject(arguments));
            return Tools.CALL + "\n" + call + "\n" + Tools.CALL_END;
        } catch (JSONException error) {
            throw new AssertionError(error);
        }
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof ToolCall
                && id.equals(((ToolCall) other).id)
                && name.equals(((ToolCall) other).name)
                && arguments.equals(((ToolCall) other).arguments);
    }

    @Override
    public int hashCode() {
        return Objects.hash(id, name, arguments);
    }

    @Override
    public String toString() {
        return name + arguments;
    }
}
