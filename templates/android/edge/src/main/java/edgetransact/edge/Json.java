package edgetransact.edge;

import org.json.JSONException;
import org.json.JSONObject;

/** JSON as the engine gets it. */
final class Json {
    private Json() {}

    /**
     * An object as ASCII: JNI's strings are not UTF-8, and would change characters outside the Basic Multilingual Plane
     * on their way. Halves of surrogate pairs, which the engine's parser refuses, become U+FFFD.
     */
    static String ascii(JSONObject object) {
        String json = object.toString();
        StringBuilder ascii = new StringBuilder(json.length());
        for (int index = 0; index < json.length(); index++) {
            char unit = json.charAt(index);
            if (unit < 0x80) {
                ascii.append(unit);
            } else if (Character.isHighSurrogate(unit)
                    && index + 1 < json.length()
                    && Character.isLowSurrogate(json.charAt(index + 1))) {
                escape(ascii, unit);
                escape(ascii, json.charAt(++index));
            } else {
                escape(ascii, Character.isSurrogate(unit) ? '\ufffd' : unit);
            }
        }
        return ascii.toString();
    }

    /** @throws IllegalArgumentException {@code what}, as an error calls it, is no JSON object */
    static JSONObject object(String what, String json) {
        try {
            return new JSONObject(json);
        } catch (JSONException error) {
            throw new IllegalArgumentException(what + " must be a JSON object: " + error.getMessage(), error);
        }
    }

    private static void escape(StringBuilder to, char unit) {
        to.append("\\u").append(Integer.toHexString(0x10000 | unit), 1, 5);
    }
}
