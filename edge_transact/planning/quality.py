"""How much worse a candidate predicts than its dense model, and how that is known.

The figures are this project's own, of one model: ``quality.json`` names it, the text and the page that has them.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from edge_transact import costs
from edge_transact.quantization import Quantization
from edge_transact.widths import WidthPlan

UNKNOWN: Literal["unknown"] = "unknown"
How = Literal["counted", "measured", "predicted", "published", "rule of thumb", "unknown"]

RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "quality.json").read_text())
"""Perplexities by ratio and kind of weights, and the options of `prune` and `heal` that gave them."""


@dataclass(frozen=True)
class Figure:
    """A figure and how it is known; `None` if it isn't. `other` is the better end of a range, `note` says from what."""

    value: float | None
    how: How
    note: str = ""
    other: float | None = None


def weights_kind(quantization: Quantization) -> str:
    """What two quantizations share that differ in layout and dtype alone: ``q4``."""
    return quantization.name.partition("f")[0]


def rise(source: WidthPlan, is_dense: bool, ratio: float, quantization: Quantization, healed: bool) -> Figure:
    """The rise of log-perplexity over the dense model in 16 bits, in nats a token, lower is better.

    Where rounding wasn't measured on the cut model, its rise on the dense model is added: a rule of thumb, which was
    0.01 nats too high for SmolLM2 cut by 30 % (docs/lab/w4.md). Figures of dense models say nothing of others.
    """
    kind = weights_kind(quantization)
    if not ratio and kind == "q0":
        return Figure(0.0, "counted", "the model itself")
    if not is_dense:
        return Figure(None, UNKNOWN, "the model was cut before")
    if healed and not ratio:
        return Figure(None, UNKNOWN, "training a whole model through the grid wasn't measured")
    is_same = costs.parameters(source) == RECORD["parameters"]
    measured, note = _between(kind, ratio, healed), f"on {RECORD['model']}; {RECORD['text']}"
    if measured is not None:
        return Figure(measured, "measured" if is_same else "published", note)
    parts = _between("q0", ratio, healed), _between(kind, 0.0, False)
    if None in parts:
        return Figure(None, UNKNOWN, f"no such cut or rounding was measured on {RECORD['model']}")
    return Figure(sum(filter(None, parts)), "rule of thumb", f"the rises of the cut and of rounding {note}, added")


def _between(kind: str, ratio: float, healed: bool) -> float | None:
    """A measured rise, or on the line between the two nearest ratios; `None` beyond what was measured."""
    dense = next(row for row in RECORD["rows"] if row["weights"] == "q0" and not row["ratio"])
    known = {
        row["ratio"]: math.log(row["perplexity"] / dense["perplexity"])
        for row in RECORD["rows"]
        if row["weights"] == kind and (row.get("healed", False) == healed or not row["ratio"])
    }
    for low, high in pairwise(sorted(known)):
        if low <= ratio <= high:
            return known[low] + (known[high] - known[low]) * (ratio - low) / (high - low)
    return known.get(ratio)


def healing_cpu_s(plan: WidthPlan, source: WidthPlan) -> float:
    """CPU seconds of `RECORD`'s training, by its time for its model and both models' sizes.

    The student goes forward and backward, the teacher forward: six and two FLOPs for a parameter and token.
    """
    work = 6 * costs.parameters(plan) + 2 * costs.parameters(source)
    return RECORD["healing_cpu_s"] * work / (8 * RECORD["parameters"])
