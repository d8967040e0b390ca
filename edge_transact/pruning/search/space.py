"""The plans among which the search looks: widths on a grid, within all limits, with nothing left that would fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from edge_transact.pruning.allocate.limits import Limit
from edge_transact.pruning.search.supernet import Axes
from edge_transact.pruning.units import GROUPS, MLP, UNITS, Unit
from edge_transact.widths import WidthPlan

LEVELS = {MLP: 8}
"""Widths of a unit on the first grid."""

LEVELS_OF_OTHERS = 4

AROUND = (-2, -1, 0, 1, 2)
"""The widths of later grids: steps around the best plan's widths."""

TRADES = 3
"""The most widths that one mutation changes, before others make up for it."""


def coarse(source: WidthPlan, plan: WidthPlan, bucket: int) -> list[Axes]:
    """The whole range of each unit that a plan cuts anywhere, in even steps, and the plan's own widths."""
    cut = [
        unit
        for unit in UNITS.values()
        if not unit.all_layers
        and any(unit.width(a) < unit.width(b) for a, b in zip(plan.layers, source.layers, strict=True))
    ]
    grid = []
    for layer, own in zip(source.layers, plan.layers, strict=True):
        axes = {}
        for unit in cut:
            step, full, levels = _step(unit, plan, bucket), unit.width(layer), LEVELS.get(unit, LEVELS_OF_OTHERS)
            even = {round(full * part / levels / step) * step for part in range(1, levels)}
            axes[unit] = sorted({max(unit.least, step, width) for width in even} | {unit.width(own), full})
        grid.append(axes)
    return grid


def fine(source: WidthPlan, plan: WidthPlan, bucket: int, grid: Sequence[Axes], part: int) -> list[Axes]:
    """Widths around a plan's, in steps that are a `part` of those of the first grid."""
    finer = []
    for layer, own, axes in zip(source.layers, plan.layers, grid, strict=True):
        around = {}
        for unit in axes:
            step, full, levels = _step(unit, plan, bucket), unit.width(layer), LEVELS.get(unit, LEVELS_OF_OTHERS)
            stride = max(1, round(full / levels / part / step)) * step
            widths = {unit.width(own) + count * stride for count in AROUND}
            around[unit] = sorted({min(full, max(unit.least, step, width)) for width in widths})
        finer.append(around)
    return finer


def _step(unit: Unit, plan: WidthPlan, bucket: int) -> int:
    """Other numbers of KV groups than multiples of the plan's would mean more calls of attention."""
    return {MLP: bucket, GROUPS: plan.virtual_num_key_value_heads}.get(unit, unit.step)


@dataclass(frozen=True)
class Space:
    """The plans on a grid that are within limits."""

    grid: Sequence[Axes]
    limits: Sequence[Limit]

    def mutated(self, plan: WidthPlan, random: Random) -> WidthPlan:
        """Another plan: some widths are changed, and others are narrowed or widened so that the budget is used."""
        axes = list(self._axes())
        for index, unit in random.sample(axes, min(random.randint(1, TRADES), len(axes))):
            plan = self._moved(plan, index, unit, random.choice((-2, -1, 1, 2)))
        return self.fitted(plan, random)

    def fitted(self, plan: WidthPlan, random: Random) -> WidthPlan:
        """The plan, narrowed here and there until it is within the limits, and widened until nothing more is."""
        plan, axes = self._within(plan, random), list(self._axes())
        while axes:
            random.shuffle(axes)
            left = []
            for index, unit in axes:
                wider = self._moved(plan, index, unit, 1)
                if wider != plan and self._holds(wider):
                    plan = wider
                    left.append((index, unit))
            axes = left
        return plan

    def _within(self, plan: WidthPlan, random: Random) -> WidthPlan:
        """The plan, narrowed here and there until it is within the limits, or until it is the smallest."""
        while not self._holds(plan):
            narrower = [self._moved(plan, index, unit, -1) for index, unit in self._axes()]
            narrower = [each for each in narrower if each != plan]
            if not narrower:
                break
            plan = random.choice(narrower)
        return plan

    def _axes(self) -> Iterator[tuple[int, Unit]]:
        return ((index, unit) for index, axes in enumerate(self.grid) for unit in axes)

    def _moved(self, plan: WidthPlan, index: int, unit: Unit, steps: int) -> WidthPlan:
        """The plan with one width so many steps further along its axis, as far as it goes."""
        layer, widths = plan.layers[index], self.grid[index][unit]
        place = min(max(widths.index(unit.width(layer)) + steps, 0), len(widths) - 1)
        layers = list(plan.layers)
        layers[index] = unit.narrowed(layer, widths[place])
        return plan.with_layers(layers)

    def _holds(self, plan: WidthPlan) -> bool:
        return all(limit.holds(plan) for limit in self.limits)
