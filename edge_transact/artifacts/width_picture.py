"""The picture of a model's widths, for pages and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edge_transact.artifacts.charts import Axis, Chart, Picture
from edge_transact.widths import WidthPlan

LABELS: Mapping[str, str] = {
    "intermediate_size": "MLP dims",
    "num_key_value_heads": "KV heads",
    "num_attention_heads": "query heads",
    "qk_head_dim": "dims of a query or key head",
    "v_head_dim": "dims of a value head",
}
"""What people call the five widths of a layer, in the order in which pruning usually narrows them."""

PRUNED, SOURCE = 0, 6


def width_picture(plan: WidthPlan, source: WidthPlan | None = None) -> Picture:
    """The five widths of every layer, in front of those of the model that was pruned.

    In a notebook the picture shows itself; `Picture.panels` has it for a page, `Picture.file` as an SVG file.

    Args:
        plan: The model's widths.
        source: The widths before pruning, of which the ones that were cut are drawn; `None` if it wasn't pruned.
    """
    charts, uncut = [], []
    for name, label in LABELS.items():
        widths, before = ([getattr(layer, name) for layer in each.layers] if each else [] for each in (plan, source))
        if widths == before:
            uncut.append(f"{label}: {spread(widths)}")
            continue
        layers = Axis(-0.6, len(widths) - 0.4, "layer", names={index: str(index) for index in range(len(widths))})
        chart = Chart(label[0].upper() + label[1:], _sentence(widths, before), layers, Axis.over([*widths, *before]))
        chart.columns(before, SOURCE)
        chart.columns(widths, PRUNED)
        chart.hover([_hover(index, width, before) for index, width in enumerate(widths)])
        charts.append(chart)
    return Picture(
        "widths",
        "Widths by layer",
        charts,
        text=f"As in the source: {'; '.join(uncut)}." if uncut else "",
        legend={"pruned": PRUNED, "source": SOURCE} if source and charts else {},
        header=("layer", *LABELS.values()),
        rows=[
            [str(index), *(f"{getattr(layer, name):,}" for name in LABELS)] for index, layer in enumerate(plan.layers)
        ],
    )


def _hover(index: int, width: int, before: Sequence[int]) -> str:
    return f"layer {index}: {width:,}" + (f" of {before[index]:,}" if before else "")


def _sentence(widths: Sequence[int], before: Sequence[int]) -> str:
    """What a chart of widths shows."""
    if not before:
        return f"{spread(widths)}."
    return f"{spread(widths)}; in the source, {spread(before)}. {sum(widths) / sum(before):.0%} of them are left."


def spread(widths: Sequence[int]) -> str:
    """Least, most and mean of the widths of all layers, with the layers where they are."""
    low, high = min(widths), max(widths)
    if low == high:
        return f"{low:,} in every layer"
    mean = sum(widths) / len(widths)
    return f"from {low:,} (layer {widths.index(low)}) to {high:,} (layer {widths.index(high)}), {mean:,.0f} on average"
