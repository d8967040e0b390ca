"""From times of probes to times of kernels: those with which a profile's predictions are closest to what was measured.

A prediction is a sum of kernels' times with known weights, so they follow by least squares. Attention's times are a few
terms for all widths: what a call costs, and what every token in the cache does, by heads and by dims.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

import numpy as np

from edge_transact.costs.profile import Kernel, Module, Phase, interpolation, parts_of
from edge_transact.widths import WidthPlan

CONFIDENCE = 0.95

DEVIATION, DAMPING = "~", 0.5
"""How much a deviation counts as an error: one that changes all timings it is in by 4 % as much as one of 2 %."""


@dataclass(frozen=True)
class Timing:
    """The seconds of a plan's prefill of `tokens`, or of one decoded token after `context`, by round."""

    plan: WidthPlan
    phase: Phase
    tokens: int
    context: float
    rounds: Mapping[int, float]


@dataclass(frozen=True)
class Fit:
    """Kernels with their times, and the worst share by which a timing differs from their prediction."""

    kernels: list[Kernel]
    misfit: float


def fit(timings: Sequence[Timing], chunk: int, contexts: Sequence[int]) -> Fit:
    """The kernels of a profile. `contexts` are those of attention to the cache, in tokens."""
    kernels = _kernels(timings, chunk, sorted({0, chunk, *contexts}))
    design = np.array([_row(kernels, timing, chunk) for timing in timings])
    terms = [_terms(kernel, contexts) for kernel in kernels]
    names = sorted({name for each in terms for name in each})
    basis = np.array([[each.get(name, 0.0) for name in names] for each in terms])
    rounds = sorted(set.intersection(*(set(timing.rounds) for timing in timings)))
    measured = np.array([median(timing.rounds[each] for each in rounds) for timing in timings])
    seconds = _solved(design, basis, names, measured)
    each_round = [_solved(design, basis, names, np.array([t.rounds[number] for t in timings])) for number in rounds]
    spreads = [half_width(values) for values in zip(*each_round, strict=True)]
    found = [
        kernel.model_copy(update={"seconds": float(value), "spread_s": min(float(spread), 1e5)})
        for kernel, value, spread in zip(kernels, seconds, spreads, strict=True)
    ]
    return Fit(found, float(np.abs(design @ seconds / measured - 1).max()))


def half_width(values: Sequence[float]) -> float:
    """Half of a 95 % interval of a mean; infinite for a single value."""
    from scipy import special

    if len(values) < 2:
        return math.inf
    return float(special.stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / math.sqrt(len(values))


def relative(values: Sequence[float]) -> float:
    return half_width(values) / fmean(values)


def passes_of(timing: Timing, chunk: int) -> list[tuple[int, float]]:
    """The tokens of each pass, and those in the cache before."""
    if timing.phase == "decode":
        return [(1, timing.context)]
    return [(min(chunk, timing.tokens - start), timing.context + start) for start in range(0, timing.tokens, chunk)]


def _kernels(timings: Sequence[Timing], chunk: int, contexts: Sequence[int]) -> list[Kernel]:
    """The points of a profile, without times: at the widths that were measured."""
    sizes: dict[Module, set[tuple[int, int]]] = {}
    for part in (part for timing in timings for part in parts_of(timing.plan)):
        sizes.setdefault(part.module, set()).add((part.width, part.head_dim))
    # A line; widths of single heads, whose dims were cut, lie on it too.
    sizes["o_proj"] = {(0, 0), max(sizes["o_proj"])}
    full = (part for timing in timings if not timing.plan.has_own_head_dims for part in parts_of(timing.plan))
    sizes["qkv_proj"] = {(part.width, 0) for part in full if part.module == "qkv_proj"}
    if "rotation" in sizes:
        sizes["rotation"] = {max(sizes["rotation"])}
    heads, dims = zip(*sizes["attention"], strict=True)
    sizes["attention"] = {(width, dim) for width in heads for dim in dims}
    prefills = {tokens for t in timings if t.phase == "prefill" for tokens, _ in passes_of(t, chunk)}
    ends = sorted({min(prefills), max(prefills)})
    passes: list[tuple[Phase, int]] = [("decode", 1), *(("prefill", tokens) for tokens in ends)]
    return [
        Kernel(module=module, phase=phase, width=w, head_dim=d, tokens=tokens, context=context, seconds=0)
        for phase, tokens in passes
        for module in sizes
        for w, d in sorted(sizes[module])
        for context in (contexts if module == "attention" else [0])
    ]


def _row(kernels: Sequence[Kernel], timing: Timing, chunk: int) -> np.ndarray:
    """How often each kernel's time counts in a timing."""
    row = np.zeros(len(kernels))
    for part in parts_of(timing.plan):
        own = [i for i, k in enumerate(kernels) if (k.module, k.phase) == (part.module, timing.phase)]
        points = [kernels[i].at for i in own]
        for tokens, past in passes_of(timing, chunk):
            for index, weight in interpolation(points, (part.width, part.head_dim, tokens, past)):
                row[own[index]] += part.count * weight
    return row


def _terms(kernel: Kernel, contexts: Sequence[int]) -> dict[str, float]:
    """What a kernel's time is a sum of: names of unknown numbers, and their factors.

    Names that begin with `DEVIATION` are small, of either sign: a width that is faster or slower than the others.
    """
    phase, width, tokens, context = kernel.phase, kernel.width, kernel.tokens, kernel.context
    of = f"{phase} {tokens}"
    if kernel.module == "attention":
        pairs, values = tokens * context + tokens * (tokens + 1) / 2, width * kernel.head_dim
        # A chunk after others attends to itself and to the cache, and merges both. Beyond a context, the cache no
        # longer stays in the CPU's caches.
        later = {f"later {phase}": float(tokens * values if context and tokens > 1 else 0)}
        beyond = {f"beyond {phase} {c}": float(tokens * max(0, context - c) * values) for c in contexts[:-1]}
        cached = {f"heads {phase}": pairs * width, f"dims {phase}": pairs * values}
        return {f"call {of}": 1.0, **later, **cached, **beyond, f"{DEVIATION}heads {phase} {width}": pairs * width}
    if kernel.module in ("model", "rotation"):
        return {f"{kernel.module} {of}": 1.0}
    weights = width * (3.0 if kernel.module == "mlp" else 1.0)
    terms = {f"weights {of}": weights, f"{DEVIATION}{kernel.module} {of}": weights}
    if kernel.module == "o_proj":
        return terms
    return {**terms, f"{kernel.module} {of}": 1.0, f"{DEVIATION}{kernel.module} {of} {width}": 1.0}


def _solved(design: np.ndarray, basis: np.ndarray, names: Sequence[str], measured: np.ndarray) -> np.ndarray:
    """Times of at least 0 with the least sum of squared relative errors."""
    from scipy.optimize import nnls

    factors = design @ basis / measured[:, None]
    scale = np.maximum(np.linalg.norm(factors, axis=0), 1e-30)
    is_deviation = np.array([name.startswith(DEVIATION) for name in names])
    # Least squares with times of at least 0: what is of either sign is a difference of two such numbers.
    both = np.hstack([factors / scale, -(factors / scale)[:, is_deviation]])
    damping = np.where(is_deviation, DAMPING, 1e-4)
    damped = np.vstack([both, np.diag(np.concatenate([damping, damping[is_deviation]]))])
    solution, _ = nnls(damped, np.concatenate([np.ones(len(measured)), np.zeros(both.shape[1])]))
    found = solution[: len(names)]
    found[is_deviation] -= solution[len(names) :]
    times: np.ndarray = np.maximum(basis @ (found / scale), 0)
    return times
