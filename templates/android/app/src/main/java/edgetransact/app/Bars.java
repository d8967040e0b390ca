package edgetransact.app;

import android.annotation.TargetApi;
import android.graphics.Insets;
import android.os.Build;
import android.view.View;
import android.view.WindowInsets;

/** Keeps content clear of the system's bars, the keyboard and cutouts, where windows reach from edge to edge. */
final class Bars {
    private Bars() {}

    /** Pads the root of an activity. Before Android 15 the system does, and there is nothing left to pad. */
    static void avoid(View root) {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.R) {
            root.setOnApplyWindowInsetsListener(Bars::pad);
        }
    }

    @TargetApi(Build.VERSION_CODES.R)
    private static WindowInsets pad(View root, WindowInsets insets) {
        Insets covered = insets.getInsets(
                WindowInsets.Type.systemBars() | WindowInsets.Type.displayCutout() | WindowInsets.Type.ime());
        root.setPadding(covered.left, covered.top, covered.right, covered.bottom);
        return WindowInsets.CONSUMED;
    }
}
