package edgetransact.app

import android.annotation.TargetApi
import android.os.Build
import android.view.View
import android.view.WindowInsets

/** Keeps content clear of the system's bars, the keyboard and cutouts, where windows reach from edge to edge. */
object Bars {
    /** Pads the root of an activity. Before Android 15 the system does, and there is nothing left to pad. */
    fun avoid(root: View) {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.R) {
            root.setOnApplyWindowInsetsListener(::pad)
        }
    }

    @TargetApi(Build.VERSION_CODES.R)
    private fun pad(root: View, insets: WindowInsets): WindowInsets {
        val types = WindowInsets.Type.systemBars() or WindowInsets.Type.displayCutout() or WindowInsets.Type.ime()
        val covered = insets.getInsets(types)
        root.setPadding(covered.left, covered.top, covered.right, covered.bottom)
        return WindowInsets.CONSUMED
    }
}
