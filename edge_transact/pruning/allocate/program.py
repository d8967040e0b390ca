"""One option for each module, at the least loss within limits whose measures add up: an integer program for HiGHS.

Modules have thousands of options, and few of them matter. Column generation (Dantzig and Wolfe, 1960) solves the
relaxation, where a module may take a mixture of options, and finds the prices of the limits. At these, an option that
is worse than its module's best by more than a known solution is worse than the relaxation isn't in a better solution:
only the others are searched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ENOUGH = 1e-3
"""The share of the loss by which a solution may be above the least, far less than what predictions are off by."""

MOST_NODES = 1000
"""After so many nodes of its search, HiGHS gives the best solution that it has."""

FEW = 500
"""A program with no more options than this is searched at once, and no prices are found."""

_SHORT = 1e6
"""What an excess as large as a limit costs in the relaxation, in units of the largest loss."""

Columns = Sequence[np.ndarray]
"""Indices of some of each module's options."""


@dataclass(frozen=True)
class Options:
    """The options of one module: losses, ``[options]``, and what they use of each limit, ``[limits, options]``."""

    losses: np.ndarray
    uses: np.ndarray


@dataclass(frozen=True)
class Solution:
    """The index of each module's option, their loss, and the loss per unit of each limit, ``[limits]``, if found."""

    chosen: tuple[int, ...]
    loss: float
    prices: np.ndarray | None


def least_at(prices: np.ndarray, modules: Sequence[Options]) -> float:
    """The least loss of the options with what they use at `prices`."""
    return sum(float((module.losses + prices @ module.uses).min()) for module in modules)


def solve(
    modules: Sequence[Options], bounds: np.ndarray, *, below: float = math.inf, prices: np.ndarray | None = None
) -> Solution | None:
    """The options with the least loss that use at most `bounds`, ``[limits]``; `None` if none has a loss `below`.

    `prices` are those of a similar program, from which the search starts.
    """
    scale = np.maximum(np.abs(bounds), sum(np.abs(module.uses).max(axis=1) for module in modules))
    scale[scale == 0] = 1.0
    modules = [Options(module.losses, module.uses / scale[:, None]) for module in modules]
    bounds = bounds / scale
    if sum(len(module.losses) for module in modules) <= FEW:
        best = _searched(modules, [np.arange(len(module.losses)) for module in modules], bounds)
        return Solution(*best, None) if best and best[1] < below else None
    columns = [{int(module.losses.argmin()), *module.uses.argmin(axis=1).tolist()} for module in modules]
    if prices is not None:
        if least_at(prices * scale, modules) - prices * scale @ bounds >= below:
            return None
        columns = [
            known | {int((module.losses + prices * scale @ module.uses).argmin())}
            for known, module in zip(columns, modules, strict=True)
        ]
    while True:
        listed = [np.array(sorted(known)) for known in columns]
        least, dual, reduced, excess = _relaxed(modules, listed, bounds)
        missing = [(index, int(losses.argmin())) for index, losses in enumerate(reduced) if losses.min() < -1e-9]
        missing = [(index, column) for index, column in missing if column not in columns[index]]
        if not missing:
            break
        for index, column in missing:
            columns[index].add(column)
    if excess > 1e-7 or least >= below:
        return None
    best = _searched(modules, listed, bounds)
    if best is None or best[1] > least + ENOUGH * abs(least):
        gap = min(below, best[1] if best else math.inf) - least
        better = _searched(modules, [np.flatnonzero(losses <= gap + 1e-9) for losses in reduced], bounds)
        best = min((found for found in (best, better) if found), key=lambda found: found[1], default=None)
    return Solution(*best, dual / scale) if best and best[1] < below else None


def _relaxed(
    modules: Sequence[Options], columns: Columns, bounds: np.ndarray
) -> tuple[float, np.ndarray, list[np.ndarray], float]:
    """The relaxation's least loss with these columns, the limits' prices, all reduced losses, and the excess."""
    from scipy.optimize import linprog

    losses, uses, one_each = _matrices(modules, columns)
    short = _SHORT * max(1.0, *(float(np.abs(module.losses).max()) for module in modules))
    limits = len(bounds)
    result = linprog(
        np.concatenate([losses, np.full(limits, short)]),
        A_ub=np.hstack([uses, -np.eye(limits)]),
        b_ub=bounds,
        A_eq=np.hstack([one_each, np.zeros((len(modules), limits))]),
        b_eq=np.ones(len(modules)),
        method="highs",
    )
    prices = -result.ineqlin.marginals
    reduced = [
        module.losses + prices @ module.uses - price
        for module, price in zip(modules, result.eqlin.marginals, strict=True)
    ]
    return float(result.fun), prices, reduced, float(result.x[len(losses) :].sum())


def _searched(modules: Sequence[Options], columns: Columns, bounds: np.ndarray) -> tuple[tuple[int, ...], float] | None:
    """The best choice among these columns, and its loss; `None` if none is within the bounds."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    if not all(len(of_module) for of_module in columns):
        return None
    losses, uses, one_each = _matrices(modules, columns)
    result = milp(
        losses,
        integrality=np.ones(len(losses)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(uses, -np.inf, bounds), LinearConstraint(one_each, 1, 1)],
        options={"mip_rel_gap": ENOUGH, "node_limit": MOST_NODES},
    )
    if result.x is None:
        return None
    ends = np.cumsum([0, *(len(of_module) for of_module in columns)])
    parts = zip(columns, ends[:-1], ends[1:], strict=True)
    chosen = tuple(int(of_module[result.x[start:end].argmax()]) for of_module, start, end in parts)
    return chosen, sum(float(module.losses[index]) for module, index in zip(modules, chosen, strict=True))


def _matrices(modules: Sequence[Options], columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses, uses, and which module each column is of."""
    taken = list(zip(modules, columns, strict=True))
    sizes = [len(of_module) for of_module in columns]
    one_each = np.repeat(np.eye(len(modules)), sizes, axis=1)
    return (
        np.concatenate([module.losses[some] for module, some in taken]),
        np.hstack([module.uses[:, some] for module, some in taken]),
        one_each,
    )
