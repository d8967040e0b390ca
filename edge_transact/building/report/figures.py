"""The charts of a rounding's report."""

from __future__ import annotations

from collections.abc import Sequence

from edge_transact.artifacts.charts import Axis, Chart, lines, number
from edge_transact.artifacts.report import Section
from edge_transact.building.report.measure import Part
from edge_transact.checkpoint.layout import LM_HEAD

COLOURS = (6, 1, 0)
"""Of roundings, in their order: grey for the first, which is MLC's."""

HEIGHT = 220


def kl_by_part(parts: Sequence[Part]) -> Section:
    """A dot for each part and rounding: the divergence when the part alone is rounded."""
    roundings, parts = list(parts[0].kl), [part for part in parts if part.matrices]  # some layers have none
    series = {name: [(float(index), part.kl[name]) for index, part in enumerate(parts)] for name in roundings}
    layers = {float(index): _tick(part.name) for index, part in enumerate(parts)}
    x = Axis(-0.6, len(parts) - 0.4, "layer; emb is the embedding", names=layers)
    y = Axis.over([value for part in parts for value in part.kl.values()], "divergence, nats a token", log=True)
    chart = lines("Divergence", series, x, y, colours=COLOURS, height=HEIGHT)
    chart.hover(
        [f"{part.name}: " + ", ".join(f"{name} {number(part.kl[name])}" for name in roundings) for part in parts]
    )
    return Section(
        "kl",
        "What rounding one part alone costs",
        [chart],
        text="The divergence of predictions from the unrounded model's when one layer is rounded and nothing else. A "
        "rounding that reads text fits a part to the rounded parts before it, so a part alone can show more than it "
        "costs.",
        legend=dict(zip(roundings, COLOURS, strict=False)),
        header=("part", *roundings),
        rows=[[part.name, *(number(part.kl[name]) for name in roundings)] for part in parts],
    )


def errors_by_matrix(parts: Sequence[Part], rounding: str) -> Section:
    """Errors of weights and of outputs: a dot for each layer, kind of matrix and rounding."""
    # A tied lm_head is measured first, as a part with the embedding; it stands last.
    kinds = sorted(dict.fromkeys(kind for part in parts for kind in part.matrices), key=LM_HEAD.startswith)
    roundings = list(parts[0].kl)
    return Section(
        "errors",
        "Errors by matrix",
        [_errors(parts, field, kinds, roundings) for field in ("weight_error", "output_error")],
        text="A matrix W becomes W'. The error of its weights is |W - W'|² / |W|², and that of its outputs "
        "|Wx - W'x|² / |Wx|² for the inputs x of the unrounded model. Dots are layers from the first to the last. The "
        f"table has the errors of outputs with {rounding}.",
        legend=dict(zip(roundings, COLOURS, strict=False)),
        header=("part", *map(_short, kinds)),
        rows=[
            [part.name, *(number(of[kind][rounding].output_error) if kind in of else "" for kind in kinds)]
            for part, of in ((part, part.matrices) for part in parts)
        ],
    )


def _errors(parts: Sequence[Part], field: str, kinds: Sequence[str], roundings: Sequence[str]) -> Chart:
    series: dict[str, list[tuple[float, float]]] = {name: [] for name in roundings}
    for index, kind in enumerate(kinds):
        of_kind = [part.matrices[kind] for part in parts if kind in part.matrices]
        step = 0.8 / len(roundings) / len(of_kind)
        for place, name in enumerate(roundings):
            left = index - 0.4 + step * (place * len(of_kind) + 0.5)
            series[name] += [(left + step * rank, getattr(each[name], field)) for rank, each in enumerate(of_kind)]
    x = Axis(-0.5, len(kinds) - 0.5, names={index: _short(kind) for index, kind in enumerate(kinds)})
    y = Axis.over([error for points in series.values() for _, error in points], "relative squared error", log=True)
    title = field.replace("_error", "s").capitalize()
    return lines(title, series, x, y, colours=COLOURS, joined=False, size=2, height=HEIGHT)


def _tick(part: str) -> str:
    return "emb" if part.startswith("embedding") else part.removeprefix("layer ").removeprefix("lm_")


def _short(matrix: str) -> str:
    return matrix.rpartition(".")[2].removesuffix("_proj").removesuffix("_tokens").removeprefix("lm_")
