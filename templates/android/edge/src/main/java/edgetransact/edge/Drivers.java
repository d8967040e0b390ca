package edgetransact.edge;

import java.util.Collections;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;

/**
 * Chips whose OpenCL gives wrong answers without a word, so that no failed start tells. Those that crash or refuse are
 * not here: {@link Starts} finds them.
 */
final class Drivers {
    /** {@code Build.SOC_MODEL} in small letters, and where it is reported. */
    private static final Map<String, String> WRONG;

    static {
        Map<String, String> wrong = new HashMap<>();
        // Exynos 1480, Xclipse 530: OpenCL over ANGLE and Vulkan, which loses mapped memory. Another engine's kernels.
        wrong.put("s5e8845", "https://github.com/google-ai-edge/LiteRT-LM/issues/2611");
        WRONG = Collections.unmodifiableMap(wrong);
    }

    private Drivers() {}

    /** Whether a chip's OpenCL is known to give wrong answers. */
    static boolean wrong(String chip) {
        return WRONG.containsKey(chip.toLowerCase(Locale.ROOT));
    }
}
