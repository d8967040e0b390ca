package edgetransact.edge;

import java.util.regex.Pattern;
import org.json.JSONException;
import org.json.JSONObject;

/** A function of the app that a model may ask for. Immutable. */
public final class Tool {
    private static final Pattern NAME = Pattern.compile("[A-Za-z0-9_-]{1,64}");

    private final String name;
    private final String description;
    private final String parameters;

    /**
     * @param name up to 64 letters, digits, {@code _} and {@code -}
     * @param description what it is for, in words for the model
     * @param parameters the JSON schema of its arguments, an object: {@code {"type": "object", "properties": ...}}
     * @throws IllegalArgumentException the name or the schema isn't one
     */
    public Tool(String name, String description, String parameters) {
        if (!NAME.matcher(name).matches()) {
            throw new IllegalArgumentException("a tool's name has up to 64 letters, digits, _ and -, unlike " + name);
        }
        this.name = name;
        this.description = description;
        this.parameters = Json.object("parameters of " + name, parameters).toString();
    }

    /** Its name. */
    public String name() {
        return name;
    }

    /** What it is for. */
    public String description() {
        return description;
    }

    /** The JSON schema of its arguments. */
    public String parameters() {
        return parameters;
    }

    /** MLC's {@code ChatTool}. */
    JSONObject json() throws JSONException {
        JSONObject function = new JSONObject()
                .put("name", name)
                .put("description", description)
                .put("parameters", new JSONObject(parameters));
        return new JSONObject().put("type", "function").put("function", function);
    }
}
