"""The figures of a rounding's report: functions from numbers to matplotlib figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from edge_transact.artifacts.pages import COLOURS, new_figure
from edge_transact.build.report.measure import Part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = (COLOURS[6], COLOURS[0], COLOURS[1])
"""The colours of roundings, in their order."""


def kl_by_part(parts: Sequence[Part]) -> Figure:
    """A dot for each part and rounding: the divergence when the part alone is rounded."""
    roundings = list(parts[0].kl)
    figure, axes = new_figure(max(6.0, 0.3 * len(parts) + 2), 3.8)
    for name, colour in zip(roundings, PALETTE, strict=False):
        axes.plot(range(len(parts)), [part.kl[name] for part in parts], "o-", lw=0.7, ms=4, color=colour, label=name)
    if all(value > 0 for part in parts for value in part.kl.values()):
        axes.set_yscale("log")
    names = [part.name.removeprefix("layer ").replace(", ", ",\n") for part in parts]
    axes.set_xticks(range(len(parts)), names, fontsize=7, rotation=90)
    axes.set_xlabel("the part: a layer, the embedding, or lm_head")
    axes.set_ylabel("divergence, nats a token")
    axes.set_title("Divergence from the unrounded model when one part is rounded", fontsize=11)
    axes.legend(fontsize=8)
    return figure


def errors_by_matrix(parts: Sequence[Part]) -> Figure:
    """Errors of weights and of outputs: a dot for each layer, kind of matrix and rounding, and a line at their mean."""
    kinds = list(dict.fromkeys(kind for part in parts for kind in part.matrices))
    roundings = list(parts[0].kl)
    figure, grid = new_figure(9, 6, 2, 1, sharex=True)
    width = 0.8 / len(roundings)
    for axes, field, label in zip(grid.flat, ("weight_error", "output_error"), ("weights", "outputs"), strict=True):
        lowest = math.inf
        for number, (name, colour) in enumerate(zip(roundings, PALETTE, strict=False)):
            for index, kind in enumerate(kinds):
                errors = [getattr(part.matrices[kind][name], field) for part in parts if kind in part.matrices]
                left, step = index - 0.4 + number * width, width / len(errors)
                axes.plot([left + step * (rank + 0.5) for rank in range(len(errors))], errors, ".", ms=3, color=colour)
                axes.hlines(fmean(errors), left, left + width, color=colour, label=None if index else name)
                lowest = min(lowest, *errors)
        if lowest > 0:
            axes.set_yscale("log")
        axes.set_ylabel(f"relative squared error\nof {label}", fontsize=8)
        axes.tick_params(which="both", labelsize=7)
    grid.flat[-1].set_xticks(range(len(kinds)), [_short(kind) for kind in kinds])
    grid.flat[0].legend(fontsize=8)
    figure.suptitle("Errors by matrix: layers from left to right, and their mean", fontsize=11)
    return figure


def _short(matrix: str) -> str:
    return matrix.rpartition(".")[2].removesuffix("_proj")
