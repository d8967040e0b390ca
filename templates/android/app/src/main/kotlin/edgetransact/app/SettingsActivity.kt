package edgetransact.app

import android.app.Activity
import android.content.Context
import android.content.Intent
import android.os.Bundle
import android.widget.EditText
import android.widget.RadioGroup
import edgetransact.edge.Preference
import java.text.NumberFormat

/** What the user may choose. It ends with what is chosen; what makes no sense stays as it was. */
class SettingsActivity : Activity() {
    private val before by lazy { Settings.of(intent.getStringExtra(SETTINGS).orEmpty()) }

    override fun onCreate(saved: Bundle?) {
        super.onCreate(saved)
        setContentView(R.layout.settings)
        Bars.avoid(findViewById(R.id.root))
        if (saved == null) show()
        for (id in listOf(R.id.temperature, R.id.top_p, R.id.max_tokens)) {
            field(id).setOnFocusChangeListener { _, focused -> if (!focused) number(id) }
        }
    }

    override fun finish() {
        setResult(RESULT_OK, Intent().putExtra(SETTINGS, chosen().json()))
        super.finish()
    }

    private fun show() {
        field(R.id.system).setText(before.system)
        field(R.id.temperature).setText(before.temperature?.toString().orEmpty())
        field(R.id.top_p).setText(before.topP?.toString().orEmpty())
        field(R.id.max_tokens).setText(before.maxTokens?.toString().orEmpty())
        findViewById<RadioGroup>(R.id.device).check(
            when (before.device) {
                Preference.AUTO -> R.id.device_auto
                Preference.GPU -> R.id.device_gpu
                Preference.CPU -> R.id.device_cpu
            },
        )
    }

    private fun chosen() = before.copy(
        system = field(R.id.system).text.toString().trim(),
        temperature = number(R.id.temperature),
        topP = number(R.id.top_p),
        maxTokens = number(R.id.max_tokens)?.toInt(),
        device = when (findViewById<RadioGroup>(R.id.device).checkedRadioButtonId) {
            R.id.device_gpu -> Preference.GPU
            R.id.device_cpu -> Preference.CPU
            else -> Preference.AUTO
        },
    )

    /** The number in a field, or what it was before if that is none; the field says so. */
    private fun number(id: Int): Double? {
        val (range, last) = when (id) {
            R.id.temperature -> Settings.TEMPERATURES to before.temperature
            R.id.top_p -> Settings.PROBABILITIES to before.topP
            else -> Settings.TOKENS to before.maxTokens?.toDouble()
        }
        return try {
            Settings.number(field(id).text.toString(), range)
        } catch (_: IllegalArgumentException) {
            val numbers = NumberFormat.getInstance()
            val (start, end) = numbers.format(range.start) to numbers.format(range.endInclusive)
            field(id).error = getString(R.string.not_in_range, start, end)
            last
        }
    }

    private fun field(id: Int) = findViewById<EditText>(id)

    companion object {
        private const val SETTINGS = "settings"

        /** Starts it with these settings. */
        fun intent(context: Context, settings: Settings): Intent =
            Intent(context, SettingsActivity::class.java).putExtra(SETTINGS, settings.json())

        /** What it ended with. */
        fun result(data: Intent): Settings = Settings.of(data.getStringExtra(SETTINGS).orEmpty())
    }
}
