package edgetransact.app

import android.content.res.Resources
import android.graphics.Typeface
import android.text.Spannable
import android.text.Spanned
import android.text.style.LeadingMarginSpan
import android.text.style.RelativeSizeSpan
import android.text.style.StyleSpan
import android.text.style.TypefaceSpan
import android.util.TypedValue

private const val ITEM_DP = 16f
private const val HEADING_SIZES = 6

/** The text as a TextView shows it. */
fun Marked.spanned(resources: Resources): CharSequence {
    val item = TypedValue.applyDimension(TypedValue.COMPLEX_UNIT_DIP, ITEM_DP, resources.displayMetrics).toInt()
    val shown = Spannable.Factory.getInstance().newSpannable(text)
    for (mark in marks) {
        for (span in spans(mark, item)) {
            shown.setSpan(span, mark.start, mark.end, Spanned.SPAN_EXCLUSIVE_EXCLUSIVE)
        }
    }
    return shown
}

private fun spans(mark: Mark, item: Int): List<Any> = when (mark.look) {
    Look.BOLD -> listOf(StyleSpan(Typeface.BOLD))
    Look.ITALIC -> listOf(StyleSpan(Typeface.ITALIC))
    Look.CODE, Look.CODE_BLOCK -> listOf(TypefaceSpan("monospace"))
    Look.HEADING -> listOf(StyleSpan(Typeface.BOLD), RelativeSizeSpan(1 + (HEADING_SIZES - mark.level) / 16f))
    Look.ITEM -> listOf(LeadingMarginSpan.Standard(item * mark.level, item * (mark.level + 1)))
}
