package edgetransact.app

import edgetransact.edge.Preference
import edgetransact.edge.Sampling
import java.io.IOException
import java.nio.file.Files
import java.nio.file.Path
import org.json.JSONException
import org.json.JSONObject

/**
 * What the user chose.
 *
 * @property model the id of a model, or empty for the first one
 * @property device what it runs on
 * @property system what the model is told before each chat; may be empty
 * @property temperature as in [Sampling], as are [topP] and [maxTokens]; null for what the model's configuration says
 */
data class Settings(
    val model: String = "",
    val device: Preference = Preference.AUTO,
    val system: String = "",
    val temperature: Double? = null,
    val topP: Double? = null,
    val maxTokens: Int? = null,
) {
    fun sampling(): Sampling =
        Sampling.builder().temperature(temperature).topP(topP).maxTokens(maxTokens).build()

    fun json(): String = JSONObject()
        .put("model", model)
        .put("device", device.name)
        .put("system", system)
        .putOpt("temperature", temperature)
        .putOpt("top_p", topP)
        .putOpt("max_tokens", maxTokens)
        .toString()

    companion object {
        val TEMPERATURES = 0.0..2.0
        val PROBABILITIES = 0.0..1.0
        val TOKENS = 1.0..100_000.0

        /** What [Settings.json] wrote. What makes no sense in it is as if nobody had chosen. */
        fun of(text: String): Settings {
            val json = try {
                JSONObject(text)
            } catch (_: JSONException) {
                return Settings()
            }
            return Settings(
                model = json.optString("model"),
                device = Preference.values().firstOrNull { it.name == json.optString("device") } ?: Preference.AUTO,
                system = json.optString("system"),
                temperature = json.doubleOrNull("temperature")?.takeIf { it in TEMPERATURES },
                topP = json.doubleOrNull("top_p")?.takeIf { it in PROBABILITIES },
                maxTokens = json.doubleOrNull("max_tokens")?.takeIf { it in TOKENS }?.toInt(),
            )
        }

        /**
         * The number that somebody typed, with a point or a comma; null for nothing.
         *
         * @throws IllegalArgumentException it is no number, or none of the range
         */
        fun number(typed: String, range: ClosedRange<Double>): Double? {
            val text = typed.trim().replace(',', '.')
            if (text.isEmpty()) return null
            return requireNotNull(text.toDoubleOrNull()?.takeIf { it in range }) { "$typed is not in $range" }
        }
    }
}

/** The settings in a file of the app's own. Its methods block. */
class SettingsStore(private val file: Path) {
    fun read(): Settings = try {
        Settings.of(String(Files.readAllBytes(file), Charsets.UTF_8))
    } catch (_: IOException) {
        Settings() // nobody chose anything yet
    }

    fun write(settings: Settings) = writeWhole(file, settings.json())
}
