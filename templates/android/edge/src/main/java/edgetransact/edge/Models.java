package edgetransact.edge;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** The app's models, from the asset {@code edge/models.json}. Immutable. */
public final class Models {
    private final List<Model> models;

    private Models(List<Model> models) {
        this.models = Collections.unmodifiableList(models);
    }

    /**
     * Reads {@code models.json}.
     *
     * @throws EdgeException {@code MODELS_INVALID}
     */
    public static Models read(String json) throws EdgeException {
        List<Model> models = new ArrayList<>();
        Set<String> ids = new HashSet<>();
        try {
            JSONArray entries = new JSONObject(json).getJSONArray("models");
            for (int index = 0; index < entries.length(); index++) {
                Model model = new Model(entries.getJSONObject(index));
                if (!ids.add(model.id().toLowerCase(Locale.ROOT))) {
                    throw new JSONException("two models are called " + model.id());
                }
                models.add(model);
            }
        } catch (JSONException error) {
            throw EdgeException.of(EdgeException.Code.MODELS_INVALID, String.valueOf(error.getMessage()), error);
        }
        return new Models(models);
    }

    /** All models, in the order of the file. */
    public List<Model> list() {
        return models;
    }

    /** The model that has a library of this name, or null. */
    public Model byLibrary(String library) {
        for (Model model : models) {
            for (Device device : Device.values()) {
                if (library.equals(model.library(device))) {
                    return model;
                }
            }
        }
        return null;
    }
}
