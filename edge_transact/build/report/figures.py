"""The pictures of a rounding's report."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from edge_transact.artifacts.charts import Axis, Chart, Picture, number
from edge_transact.build.report.measure import Part
from edge_transact.checkpoint.layout import LM_HEAD

COLOURS = (6, 1, 0)
"""Of roundings, in their order: grey for the first, which is MLC's."""


def kl_by_part(parts: Sequence[Part]) -> Picture:
    """A dot for each part and rounding: the divergence when the part alone is rounded."""
    roundings = list(parts[0].kl)
    layers: dict[float, str] = {
        index: part.name.removeprefix("layer ") for index, part in enumerate(parts) if part.name.startswith("layer ")
    }
    y = Axis.over([value for part in parts for value in part.kl.values()], "divergence, nats a token", log=True)
    text = "; ".join(
        f"{name}: {number(min(values))} to {number(max(values))}, the most in {parts[values.index(max(values))].name}"
        for name in roundings
        if (values := [part.kl[name] for part in parts])
    )
    chart = Chart("Divergence", f"{text}.", Axis(-0.6, len(parts) - 0.4, "layer", names=layers), y, height=220)
    for name, colour in zip(roundings, COLOURS, strict=False):
        points = [(index, part.kl[name]) for index, part in enumerate(parts)]
        chart.line(points, colour)
        chart.dots(points, colour)
    chart.hover(
        [f"{part.name}: " + ", ".join(f"{name} {number(part.kl[name])}" for name in roundings) for part in parts]
    )
    others = [part.name for index, part in enumerate(parts) if index not in layers]
    ends = f"the {others[0]} comes before layer 0" + (f", {others[1]} after the last" if others[1:] else "")
    return Picture(
        "kl",
        "What rounding one part alone costs",
        [chart],
        text="The divergence of predictions from the unrounded model's when one layer is rounded and nothing else; "
        f"{ends}. A rounding that reads text fits a part to what the rounded parts before it compute, so a part alone "
        "can show more than it costs.",
        legend=dict(zip(roundings, COLOURS, strict=False)),
        header=("part", *roundings),
        rows=[[part.name, *(number(part.kl[name]) for name in roundings)] for part in parts],
    )


def errors_by_matrix(parts: Sequence[Part], rounding: str) -> Picture:
    """Errors of weights and of outputs: a dot for each layer, kind of matrix and rounding, and a line at their mean.

    Args:
        parts: What was measured.
        rounding: The one whose errors the table lists.
    """
    # A tied lm_head is measured first, as a part with the embedding; it stands last.
    kinds = sorted(dict.fromkeys(kind for part in parts for kind in part.matrices), key=LM_HEAD.startswith)
    roundings = list(parts[0].kl)
    return Picture(
        "errors",
        "Errors by matrix",
        [_errors(parts, field, kinds, roundings) for field in ("weight_error", "output_error")],
        text="A matrix W becomes W'. The error of its weights is |W - W'|² / |W|², and that of its outputs "
        "|Wx - W'x|² / |Wx|² for the inputs x of the unrounded model. Dots are layers from the first to the last, and "
        f"lines are their means. The table has the errors of outputs with {rounding}.",
        legend=dict(zip(roundings, COLOURS, strict=False)),
        header=("part", *map(_short, kinds)),
        rows=[[part.name, *(_output_error(part, kind, rounding) for kind in kinds)] for part in parts],
    )


def _errors(parts: Sequence[Part], field: str, kinds: Sequence[str], roundings: Sequence[str]) -> Chart:
    errors = {
        (kind, name): [getattr(part.matrices[kind][name], field) for part in parts if kind in part.matrices]
        for kind in kinds
        for name in roundings
    }
    means = {key: fmean(of_kind) for key, of_kind in errors.items()}
    kind, name = max(means, key=means.__getitem__)
    chart = Chart(
        field.replace("_error", "s").capitalize(),
        f"The largest mean error is {number(means[kind, name])}, of {_short(kind)} with {name}.",
        Axis(-0.5, len(kinds) - 0.5, names={index: _short(kind) for index, kind in enumerate(kinds)}),
        Axis.over([error for of_kind in errors.values() for error in of_kind], "relative squared error", log=True),
        height=220,
    )
    width = 0.8 / len(roundings)
    for place, (name, colour) in enumerate(zip(roundings, COLOURS, strict=False)):
        for index, kind in enumerate(kinds):
            of_kind, left = errors[kind, name], index - 0.4 + place * width
            step = width / len(of_kind)
            chart.dots([(left + step * (rank + 0.5), error) for rank, error in enumerate(of_kind)], colour, size=2)
            chart.line([(end, means[kind, name]) for end in (left, left + width)], colour)
    of_kinds = (", ".join(f"{name} {number(means[kind, name])}" for name in roundings) for kind in kinds)
    chart.hover([f"{_short(kind)}, mean: {text}" for kind, text in zip(kinds, of_kinds, strict=True)])
    return chart


def _output_error(part: Part, kind: str, rounding: str) -> str:
    return number(part.matrices[kind][rounding].output_error) if kind in part.matrices else ""


def _short(matrix: str) -> str:
    return matrix.rpartition(".")[2].removesuffix("_proj").removesuffix("_tokens").removeprefix("lm_")
