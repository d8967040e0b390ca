"""The figures of a pruning's report: functions from numbers to matplotlib figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from edge_transact.artifacts.pages import COLOURS, new_figure
from edge_transact.prune.compensate.compensation import PROJECTIONS
from edge_transact.prune.compensate.regression import Fit
from edge_transact.prune.cut.selection import select
from edge_transact.prune.score.sensitivity import CUT
from edge_transact.prune.scores import LayerScores
from edge_transact.prune.units import QUERIES, Unit
from edge_transact.widths import LayerWidths, WidthPlan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEPT, CUT_AWAY = COLOURS[0], COLOURS[1]
SOURCE, PRUNED = COLOURS[6], COLOURS[0]
ATTENTION, MLP = COLOURS[0], COLOURS[1]

COLUMNS = 6
"""Layers in a row of a salience figure."""

WIDTH_LABELS = {
    "num_attention_heads": "query heads",
    "num_key_value_heads": "KV heads",
    "qk_head_dim": "dims of a query\nor key head",
    "v_head_dim": "dims of a\nvalue head",
    "intermediate_size": "MLP dims",
}


def salience(unit: Unit, scores: Sequence[LayerScores], plan: WidthPlan, what: str) -> Figure:
    """A bar for each unit, layer by layer, with kept and cut ones in two colours: as in the paper's Figure 2.

    Query heads have a scale of their own in each layer; dims share a logarithmic one.

    Args:
        unit: What the bars are.
        scores: The scores of each layer.
        plan: The widths that are kept.
        what: The label of the scale.
    """
    rows = math.ceil(len(scores) / COLUMNS)
    columns = min(COLUMNS, len(scores))
    dims = unit is not QUERIES
    figure, grid = new_figure(max(6, 2 * columns), (1.9 if dims else 1.4) * rows + 1, rows, columns, sharey=dims)
    cells = list(grid.flat) if len(scores) > 1 else [grid]
    lowest = math.inf
    for index, (axes, of_layer, widths) in enumerate(zip(cells, scores, plan.layers, strict=False)):
        values, kept = bars(unit, of_layer, widths)
        for colour, chosen in ((KEPT, kept), (CUT_AWAY, ~kept)):
            shown = torch.where(chosen, values, 0).tolist()
            # One outline instead of thousands of bars; heads are few and are drawn apart.
            if dims:
                axes.stairs(shown, fill=True, color=colour)
            else:
                axes.bar(range(len(shown)), shown, color=colour)
        lowest = min([lowest, *values[values > 0].tolist()])
        axes.set_title(f"layer {index}", fontsize=8)
        axes.tick_params(labelsize=6)
    for axes in cells[len(scores) :]:
        axes.set_visible(False)
    if dims and lowest < math.inf:
        cells[0].set_yscale("log")
        cells[0].set_ylim(bottom=lowest)
    figure.suptitle(f"Salience: {unit.title}, {_order(unit)}", fontsize=11)
    figure.supylabel(what, fontsize=9)
    _colour_legend(figure, {"kept": KEPT, "cut": CUT_AWAY})
    return figure


def _order(unit: Unit) -> str:
    if unit is QUERIES:
        return "in their order"
    return "best first within each KV head" if unit.place == "in group" else "best first"


def bars(unit: Unit, scores: LayerScores, widths: LayerWidths) -> tuple[torch.Tensor, torch.Tensor]:
    """The heights of a layer's bars, and which of them these scores alone would keep.

    Args:
        unit: What the bars are.
        scores: The layer's scores.
        widths: The widths to which the layer is cut.

    Returns:
        fp32 and bool, ``[units]``.
    """
    kept, values = select(scores, widths), scores.of(unit)
    in_groups = unit.place == "in group"
    rows = values if in_groups else values[None]
    mask = torch.zeros_like(rows, dtype=torch.bool)
    mask[kept.groups[:, None] if in_groups else 0, kept.of(unit)] = True
    if unit is not QUERIES:
        order = rows.argsort(dim=1, descending=True, stable=True)
        rows, mask = rows.gather(1, order), mask.gather(1, order)
    return rows.flatten(), mask.flatten()


def widths_by_layer(source: WidthPlan, pruned: WidthPlan) -> Figure:
    """All five widths, those of the pruned model in front of those of the source."""
    from matplotlib.ticker import MaxNLocator

    figure, grid = new_figure(_wide(source), 7.5, len(WIDTH_LABELS), 1, sharex=True)
    layers = range(source.num_hidden_layers)
    for axes, (name, label) in zip(grid.flat, WIDTH_LABELS.items(), strict=True):
        for plan, colour in ((source, SOURCE), (pruned, PRUNED)):
            axes.bar(layers, [asdict(layer)[name] for layer in plan.layers], color=colour)
        axes.set_ylabel(label, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    _label_layers(grid.flat[-1])
    figure.suptitle("Widths by layer", fontsize=11)
    _colour_legend(figure, {"source": SOURCE, "pruned": PRUNED})
    return figure


def sensitivity(divergence: torch.Tensor) -> Figure:
    """Bars of attention and MLP for each layer; ``[layers, 2]``, nats a token."""
    figure, axes = new_figure(max(6.0, 0.3 * len(divergence) + 2), 3.4)
    for offset, (column, label, colour) in zip(
        (-0.2, 0.2), ((0, "attention", ATTENTION), (1, "MLP", MLP)), strict=True
    ):
        places = [index + offset for index in range(len(divergence))]
        axes.bar(places, divergence[:, column].tolist(), 0.4, color=colour, label=label)
    if (divergence > 0).all():
        axes.set_yscale("log")
    axes.set_ylabel("divergence, nats a token")
    axes.set_title(f"Sensitivity: one layer's attention or MLP cut by {CUT:.0%}", fontsize=11)
    axes.legend(fontsize=8)
    _label_layers(axes)
    return figure


def compensation(fits: Sequence[Mapping[str, Fit]]) -> Figure:
    """The distance of each consuming projection from its target, before and after it is solved again."""
    figure, grid = new_figure(max(6.0, 0.3 * len(fits) + 2), 5, len(PROJECTIONS), 1, sharex=True)
    for axes, name in zip(grid.flat, PROJECTIONS, strict=True):
        for offset, field, colour in ((-0.2, "error_before", SOURCE), (0.2, "error_after", PRUNED)):
            places = [index + offset for index in range(len(fits))]
            axes.bar(places, [asdict(of_layer[name])[field] for of_layer in fits], 0.4, color=colour)
        axes.set_title(name, fontsize=9)
        axes.set_ylabel("share of the\nhidden state's square", fontsize=8)
        axes.tick_params(labelsize=7)
    _label_layers(grid.flat[-1])
    figure.suptitle("Compensation: squared distance to the target on held-out text", fontsize=11)
    _colour_legend(figure, {"before": SOURCE, "after": PRUNED})
    return figure


def _wide(plan: WidthPlan) -> float:
    return max(6.0, 0.25 * plan.num_hidden_layers + 2)


def _label_layers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _colour_legend(figure: Figure, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=label) for label, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), fontsize=8)
