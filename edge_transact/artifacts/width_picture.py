"""The widths of a model by layer, as a section of a page and in notebooks."""

from __future__ import annotations

from collections.abc import Mapping

from edge_transact.artifacts.charts import Axis, by_layer, spread
from edge_transact.artifacts.report import Section
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


def width_section(plan: WidthPlan, source: WidthPlan | None = None) -> Section:
    """The five widths of every layer, in front of those of the model that was pruned.

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
        series = {"source": before, "pruned": widths} if source else {"": widths}
        y = Axis.over([*widths, *before])
        charts.append(
            by_layer(label[0].upper() + label[1:], series, y, colours=(SOURCE, PRUNED) if source else (PRUNED,))
        )
    return Section(
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
