package edgetransact.edge;

import java.util.ArrayList;
import java.util.Collections;
import java.util.EnumMap;
import java.util.HashMap;
import java.util.Iterator;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.regex.Pattern;
import org.jetbrains.annotations.Nullable;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** A model of the app: an entry of {@code models.json}. Immutable. */
public final class Model {
    /** Where the weights come from. */
    public enum Weights {
        /** They travel in the app, and are copied out of it once. */
        ASSETS,
        /** They travel in an asset pack that is installed with the app, and are copied out of it once. */
        PACK,
        /** They travel in an asset pack that Google Play brings after the app, and are used where they are. */
        FAST_FOLLOW,
        /** They are downloaded once. */
        DOWNLOAD,
        /** {@code edge-transact install} puts them on the phone. */
        INSTALL;

        static Weights of(String word) throws JSONException {
            for (Weights each : values()) {
                if (each.name().toLowerCase(Locale.ROOT).replace('_', '-').equals(word)) {
                    return each;
                }
            }
            throw new JSONException("weights come from nowhere that this version knows: " + word);
        }
    }

    /** A file of a model. */
    public static final class File {
        private final String path;
        private final long bytes;
        private final String sha256;

        private File(String path, long bytes, String sha256) {
            this.path = path;
            this.bytes = bytes;
            this.sha256 = sha256;
        }

        /** Its name, without folders. */
        public String path() {
            return path;
        }

        /** Its size. */
        public long bytes() {
            return bytes;
        }

        /** Its sha256, as 64 hexadecimal digits. */
        public String sha256() {
            return sha256;
        }
    }

    /** What a chip runs the model on best. */
    public static final class Tuned {
        private final Device device;
        private final List<Integer> cores = new ArrayList<>();

        private Tuned(JSONObject entry, Set<Device> devices) throws JSONException {
            device = Device.of(entry.getString("target"));
            if (!devices.contains(device)) {
                throw new JSONException("it has no library for " + entry);
            }
            JSONArray numbers = entry.getJSONArray("cores");
            for (int index = 0; index < numbers.length(); index++) {
                cores.add(numbers.getInt(index));
            }
        }

        /** The unit. */
        public Device device() {
            return device;
        }

        /** The cores of the CPU; empty to leave that to the runtime. */
        public List<Integer> cores() {
            return Collections.unmodifiableList(cores);
        }
    }

    private static final Pattern ID = Pattern.compile("[A-Za-z0-9][A-Za-z0-9._-]*");
    private static final Pattern LIBRARY = Pattern.compile("[A-Za-z_][A-Za-z0-9_-]*");
    private static final Pattern PACK = Pattern.compile("[A-Za-z][A-Za-z0-9_]*");
    private static final Pattern URL = Pattern.compile("https://[^\\s?#]+");
    private static final Pattern SHA256 = Pattern.compile("[0-9a-f]{64}");

    private final String id;
    private final String name;
    private final String digest;
    private final Map<Device, String> libraries = new EnumMap<>(Device.class);
    private final Map<Device, Long> memoryBytes = new EnumMap<>(Device.class);
    private final Map<String, Tuned> tuned = new HashMap<>();
    private final int contextWindowSize;
    private final Weights weights;
    private final String pack;
    private final String url;
    private final List<File> files = new ArrayList<>();

    Model(JSONObject entry) throws JSONException {
        id = matching(ID, entry.getString("id"));
        name = entry.getString("name");
        digest = matching(SHA256, entry.getString("digest"));
        contextWindowSize = entry.getInt("context_window_size");
        weights = Weights.of(entry.getString("weights"));
        pack = weights == Weights.FAST_FOLLOW ? matching(PACK, entry.getString("pack")) : null;
        url = weights == Weights.DOWNLOAD ? matching(URL, entry.getString("url")) : null;
        JSONObject names = entry.getJSONObject("libraries");
        for (Device device : Device.values()) {
            if (names.has(device.target())) {
                libraries.put(device, matching(LIBRARY, names.getString(device.target())));
                memoryBytes.put(device, entry.getJSONObject("memory_bytes").getLong(device.target()));
            }
        }
        JSONObject chips = entry.getJSONObject("tuned");
        for (Iterator<String> each = chips.keys(); each.hasNext(); ) {
            String chip = each.next();
            tuned.put(chip, new Tuned(chips.getJSONObject(chip), libraries.keySet()));
        }
        JSONArray listed = entry.getJSONArray("files");
        for (int index = 0; index < listed.length(); index++) {
            JSONObject file = listed.getJSONObject(index);
            files.add(new File(
                    matching(ID, file.getString("path")),
                    file.getLong("bytes"),
                    matching(SHA256, file.getString("sha256"))));
        }
        if (libraries.isEmpty() || files.isEmpty()) {
            throw new JSONException("it has no library or no file");
        }
    }

    /** Its name in paths. */
    public String id() {
        return id;
    }

    /** Its name for people: any text. */
    public String name() {
        return name;
    }

    /** Tells its weights from those of another version of the app. */
    public String digest() {
        return digest;
    }

    /** The name of its library for a device, as in {@code system://NAME}; null if it has none. */
    @Nullable
    public String library(Device device) {
        return libraries.get(device);
    }

    /** Memory that it takes on a device for which it has a library: MLC's {@code estimated_vram_bytes}. */
    public long memoryBytes(Device device) {
        return memoryBytes.get(device);
    }

    /** What a chip runs it on best; null if that wasn't measured. */
    @Nullable
    public Tuned tuned(String chip) {
        return tuned.get(chip);
    }

    /** The most tokens that it can see. */
    public int contextWindowSize() {
        return contextWindowSize;
    }

    /** Where its weights come from. */
    public Weights weights() {
        return weights;
    }

    /** The asset pack that Google Play brings after the app; null unless the weights are {@code FAST_FOLLOW}. */
    @Nullable
    public String pack() {
        return pack;
    }

    /** The folder below which its files are downloaded; null unless the weights are {@code DOWNLOAD}. */
    @Nullable
    public String url() {
        return url;
    }

    /** Its files: weights, configuration and tokenizer. */
    public List<File> files() {
        return Collections.unmodifiableList(files);
    }

    /** The size of all of its files. */
    public long bytes() {
        long total = 0;
        for (File file : files) {
            total += file.bytes();
        }
        return total;
    }

    private static String matching(Pattern pattern, String value) throws JSONException {
        if (!pattern.matcher(value).matches()) {
            throw new JSONException("not of the form " + pattern + ": " + value);
        }
        return value;
    }
}
