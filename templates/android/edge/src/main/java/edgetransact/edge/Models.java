package edgetransact.edge;

import java.util.ArrayList;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import org.jetbrains.annotations.Nullable;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** The app's models, from its assets {@code edge/models.json} and {@code edge/ID/models.json}. Immutable. */
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
        return read(Collections.singletonList(json));
    }

    /**
     * Reads the {@code models.json} of the app and those of modules that bring a model.
     *
     * @throws EdgeException {@code MODELS_INVALID}; there is none, for example, or two models have one id
     */
    public static Models read(List<String> texts) throws EdgeException {
        List<Model> models = new ArrayList<>();
        Set<String> ids = new HashSet<>();
        try {
            if (texts.isEmpty()) {
                throw new JSONException("the app's assets have no edge/models.json and no edge/ID/models.json");
            }
            for (String json : texts) {
                JSONArray entries = new JSONObject(json).getJSONArray("models");
                for (int index = 0; index < entries.length(); index++) {
                    Model model = new Model(entries.getJSONObject(index));
                    if (!ids.add(model.id().toLowerCase(Locale.ROOT))) {
                        throw new JSONException("two models are called " + model.id());
                    }
                    models.add(model);
                }
            }
        } catch (JSONException error) {
            throw EdgeException.of(EdgeException.Code.MODELS_INVALID, String.valueOf(error.getMessage()), error);
        }
        return new Models(models);
    }

    /** All models, in the order of the files. */
    public List<Model> list() {
        return models;
    }

    /** The model that has a library of this name, or null. */
    @Nullable
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
