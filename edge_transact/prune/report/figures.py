"""The pictures of a pruning's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from edge_transact.artifacts.charts import Axis, Chart, Picture, number
from edge_transact.prune.compensate.compensation import PROJECTIONS
from edge_transact.prune.compensate.regression import Fit
from edge_transact.prune.cut.selection import select
from edge_transact.prune.score.sensitivity import CUT
from edge_transact.prune.scores import LayerScores
from edge_transact.prune.units import QUERIES, Unit
from edge_transact.widths import LayerWidths, WidthPlan

KEPT, CUT_AWAY = 0, 1
SOURCE = 6

BINS = 48
"""The most bars of a layer in a picture of scores: neighbours share one."""


def salience(unit: Unit, scores: Sequence[LayerScores], plan: WidthPlan, what: str) -> Picture:
    """A chart of bars for each layer, kept and cut ones in two colours: as in the paper's Figure 2.

    Query heads have a scale of their own in each layer; dims share a logarithmic one.

    Args:
        unit: What the bars are.
        scores: The scores of each layer.
        plan: The widths that are kept.
        what: What a score is.
    """
    layers = [bars(unit, of_layer, widths) for of_layer, widths in zip(scores, plan.layers, strict=True)]
    positive = torch.cat([values[values > 0] for values, _ in layers])
    shared = unit is not QUERIES and len(positive) > 0
    lowest, highest = (positive.min().item(), positive.max().item()) if shared else (0.0, 0.0)
    charts = []
    for index, (values, kept) in enumerate(layers):
        y = (
            Axis(lowest / 1.2, highest * 1.2, log=True, names={})
            if shared
            else Axis(0, values.max().item() or 1, names={})
        )
        low, high = values.min().item(), values.max().item()
        text = f"{kept.sum()} of {len(kept)} {unit.title} are kept. Scores go from {number(low)} to {number(high)}."
        title = f"{index}: {kept.sum():,} of {len(kept):,}"
        size = -(-len(values) // BINS)
        chart = Chart(title, f"Layer {index}: {text}", Axis(0, len(values), names={}), y, width=160, height=84)
        for colour, chosen in ((KEPT, kept), (CUT_AWAY, ~kept)):
            shown = [
                part.mean().item() if of_part.float().mean() >= 0.5 else y.low
                for part, of_part in zip(values.split(size), chosen.split(size), strict=True)
            ]
            chart.steps(shown, colour, width=size)
        charts.append(chart)
    scale = (
        f"The scale is logarithmic, from {number(lowest)} to {number(highest)}."
        if shared
        else ("Each layer has its own scale, from 0.")
    )
    order = "in their order" if unit is QUERIES else "best first" + " within each KV head" * (unit.place == "in group")
    return Picture(
        f"salience-{unit.figure}",
        f"Scores of {unit.title}",
        charts,
        text=f"A chart for each layer, and how many it keeps. Bars are {unit.title}, {order}: {what}. {scale}",
        legend={"kept": KEPT, "cut": CUT_AWAY},
    )


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


def sensitivity(divergence: torch.Tensor) -> Picture:
    """Columns for the attention and for the MLP of each layer; ``[layers, 2]``, nats a token."""
    values = divergence.tolist()
    y = Axis.over([value for row in values for value in row], "divergence, nats a token", log=True)
    charts = []
    for column, label in enumerate(("attention", "MLP")):
        of_module = [row[column] for row in values]
        highest = max(range(len(of_module)), key=of_module.__getitem__)
        text = (
            f"From {number(min(of_module))} to {number(of_module[highest])} nats a token, the most in layer {highest}."
        )
        chart = Chart(label[0].upper() + label[1:], text, _layers(len(values)), y)
        chart.columns(of_module, KEPT)
        chart.hover([f"layer {index}: {number(value)}" for index, value in enumerate(of_module)])
        charts.append(chart)
    return Picture(
        "sensitivity",
        "How sensitive each layer is",
        charts,
        text="The Kullback-Leibler divergence of the predictions when the attention or the MLP of one layer alone is "
        f"cut by {CUT:.0%}.",
        header=("layer", "attention", "MLP"),
        rows=[[str(index), *map(number, row)] for index, row in enumerate(values)],
    )


def compensation(fits: Sequence[Mapping[str, Fit]]) -> Picture:
    """The distance of each consuming projection from its target, before and after it is solved again."""
    charts = []
    for name in PROJECTIONS:
        errors = [(of_layer[name].error_before, of_layer[name].error_after) for of_layer in fits]
        before, after = ([pair[when] for pair in errors] for when in (0, 1))
        left = f"{sum(after) / sum(before):.0%} of the distance is left" if sum(before) else "nothing was cut before it"
        text = f"Up to {number(max(before))} before and {number(max(after))} after; {left}."
        chart = Chart(name, text, _layers(len(fits)), Axis.over(before, "share of the hidden state's square"))
        chart.columns(before, SOURCE)
        chart.columns(after, KEPT)
        chart.hover(
            [f"layer {index}: {number(old)} before, {number(new)} after" for index, (old, new) in enumerate(errors)]
        )
        charts.append(chart)
    return Picture(
        "compensation",
        "What compensation makes up for",
        charts,
        text="The squared distance of a projection's output to that of the source, on calibration text that was held "
        "out, before and after its weights are solved again.",
        legend={"before": SOURCE, "after": KEPT},
        header=("layer", *(f"{name}, {when}" for name in PROJECTIONS for when in ("before", "after"))),
        rows=[
            [str(index), *(number(error) for fit in of_layer.values() for error in (fit.error_before, fit.error_after))]
            for index, of_layer in enumerate(fits)
        ],
    )


def _layers(count: int) -> Axis:
    return Axis(-0.6, count - 0.4, "layer", names={index: str(index) for index in range(count)})
