"""The charts of a pruning's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from edge_transact.artifacts.charts import Axis, Chart, by_layer, lines, number
from edge_transact.artifacts.report import Section
from edge_transact.artifacts.summary import PRUNED, SOURCE
from edge_transact.pruning.compensate.compensation import PROJECTIONS
from edge_transact.pruning.compensate.regression import Fit
from edge_transact.pruning.cut.selection import select
from edge_transact.pruning.score.sensitivity import CUT
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.search.loop import Found
from edge_transact.pruning.units import QUERIES, UNITS, Unit
from edge_transact.widths import LayerWidths, WidthPlan

CUT_AWAY = 1

BINS = 48
"""The most bars of a layer in a chart of scores: neighbours share one."""


def salience(unit: Unit, scores: Sequence[LayerScores], plan: WidthPlan, what: str) -> Section:
    """A chart of bars for each layer, kept and cut ones in two colours, as in the paper's Figure 2; `what` a score is.

    Query heads have a scale of their own in each layer; dims share a logarithmic one.
    """
    of_layers = (bars(unit, of_layer, widths) for of_layer, widths in zip(scores, plan.layers, strict=True))
    layers = [(index, values, kept) for index, (values, kept) in enumerate(of_layers) if len(values)]
    positive = torch.cat([values[values > 0] for _, values, _ in layers])
    shared = unit is not QUERIES and len(positive) > 0
    lowest, highest = (positive.min().item(), positive.max().item()) if shared else (0.0, 0.0)
    charts = []
    for index, values, kept in layers:
        y = (
            Axis(lowest / 1.2, highest * 1.2, log=True, names={})
            if shared
            else Axis(0, values.max().item() or 1, names={})
        )
        ends = f"from {number(values.min().item())} to {number(values.max().item())}"
        text = f"Layer {index}: {kept.sum()} of {len(kept)} {unit.title} are kept. Scores go {ends}."
        size = -(-len(values) // BINS)
        x = Axis(0, len(values), names={})
        chart = Chart(f"{index}: {kept.sum():,} of {len(kept):,}", text, x, y, width=160, height=84)
        for colour, chosen in ((PRUNED, kept), (CUT_AWAY, ~kept)):
            parts = zip(values.split(size), chosen.split(size), strict=True)
            heights = [part.mean().item() if of_part.float().mean() >= 0.5 else y.low for part, of_part in parts]
            chart.boxes(((i * size, y.low, (i + 1) * size, top) for i, top in enumerate(heights)), colour)
        charts.append(chart)
    scale = f"logarithmic, from {number(lowest)} to {number(highest)}" if shared else "each layer's own, from 0"
    order = "in their order" if unit is QUERIES else "best first" + " within each KV head" * (unit.place == "in group")
    return Section(
        f"salience-{unit.figure}",
        f"Scores of {unit.title}",
        charts,
        text=f"A chart for each layer, and how many it keeps. Bars are {unit.title}, {order}: {what}. Scale: {scale}.",
        legend={"kept": PRUNED, "cut": CUT_AWAY},
        folded=True,
    )


def bars(unit: Unit, scores: LayerScores, widths: LayerWidths) -> tuple[torch.Tensor, torch.Tensor]:
    """The heights of a layer's bars, fp32 ``[units]``, and which of them these scores alone would keep."""
    kept, values = select(scores, widths), scores.of(unit)
    in_groups = unit.place == "in group"
    rows = values if in_groups else values[None]
    mask = torch.zeros_like(rows, dtype=torch.bool)
    mask[kept.groups[:, None] if in_groups else 0, kept.of(unit)] = True
    if unit is not QUERIES:
        order = rows.argsort(dim=1, descending=True, stable=True)
        rows, mask = rows.gather(1, order), mask.gather(1, order)
    return rows.flatten(), mask.flatten()


def search(found: Found) -> Section:
    """How the search went on, and where the plan that it chose differs from the one that it began with."""
    generations = found.generations
    best = [(float(place), each.ranking[0][1]) for place, each in enumerate(generations)]
    low, high = best[-1][1], best[0][1]
    y = Axis(0.98 * low, 1.02 * high, "divergence, nats a token")
    charts = [lines("Best plan", {"": best}, Axis(0, max(1, len(best) - 1), "generation"), y, colours=(PRUNED,))]
    first, last = found.start.layers, found.best.layers
    for unit in UNITS.values():
        before, after = ([unit.width(layer) for layer in layers] for layers in (first, last))
        if before != after:
            widths = Axis.over([*before, *after])
            of_plans = {"before": before, "found": after}
            charts.append(by_layer(unit.title, of_plans, widths, colours=(SOURCE, PRUNED)))
    return Section(
        "search",
        "Search",
        charts,
        text="The divergence of the best plan's predictions from the source's on the text that generations are "
        "compared on, by generation, and the widths of the allocation's plan and of the one that was found. In the "
        f"end, {found.note()}.",
        legend={"before": SOURCE, "found": PRUNED},
        header=("generation", "round", "divergence, nats a token"),
        rows=[[f"{at:.0f}", str(of.round), number(loss)] for (at, loss), of in zip(best, generations, strict=True)],
        folded=True,
    )


def sensitivity(divergence: torch.Tensor) -> Section:
    """Columns for the attention and for the MLP of each layer; nats a token, as `measure_sensitivity` returns it."""
    values = divergence.tolist()
    labels = ("Attention", "MLP", "Without attention", "Without MLP")[: divergence.shape[1]]
    y = Axis.over([value for row in values for value in row], "divergence, nats a token", log=True)
    modules = zip(labels, zip(*values, strict=True), strict=True)
    return Section(
        "sensitivity",
        "How sensitive each layer is",
        [by_layer(label, {"": of_module}, y, colours=(PRUNED,)) for label, of_module in modules],
        text="The Kullback-Leibler divergence of the predictions when the attention or the MLP of one layer alone is "
        f"cut by {CUT:.0%}" + (", or is gone." if len(labels) > 2 else "."),
        header=("layer", *(label[0].lower() + label[1:] if label != "MLP" else label for label in labels)),
        rows=[[str(index), *map(number, row)] for index, row in enumerate(values)],
        folded=True,
    )


def compensation(fits: Sequence[Mapping[str, Fit]]) -> Section:
    """The distance of each consuming projection from its target, before and after it is solved again."""
    charts = []
    for name in PROJECTIONS:
        before, after = zip(*(_errors(of_layer, name) or (0.0, 0.0) for of_layer in fits), strict=True)
        y = Axis.over(before, "share of the hidden state's square")
        charts.append(by_layer(name, {"before": before, "after": after}, y, colours=(SOURCE, PRUNED)))
    return Section(
        "compensation",
        "Error before and after compensation",
        charts,
        text="The squared distance of a projection's output from that of the source, on held-out calibration text, "
        "before and after its weights are solved again.",
        legend={"before": SOURCE, "after": PRUNED},
        header=("layer", *(f"{name}, {when}" for name in PROJECTIONS for when in ("before", "after"))),
        rows=[
            [
                str(index),
                *(cell for name in PROJECTIONS for cell in [*map(number, _errors(of_layer, name))] or ["", ""]),
            ]
            for index, of_layer in enumerate(fits)
        ],
        folded=True,
    )


def _errors(fits: Mapping[str, Fit], name: str) -> tuple[float, ...]:
    """A projection's error before and after it is solved again; empty if the layer lost it."""
    return (fits[name].error_before, fits[name].error_after) if name in fits else ()
