"""The plans among which the search looks: widths on a grid, within all limits, with nothing left that would fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from edge_transact.pruning.allocate.limits import Limit
from edge_transact.pruning.search.supernet import Axes
from edge_transact.pruning.units import GROUPS, MLP, UNITS, Unit
from edge_transact.widths import WidthPlan

LEVELS = {MLP: 8, None: 4}
"""Widths of a unit on the first grid; `None` stands for others."""

AROUND = (-2, -1, 0, 1, 2)
"""The widths of later grids: steps around the best plan's widths."""

TRADES = 3
"""The most widths that one mutation changes, before others make up for it."""


def coarse(source: WidthPlan, plan: WidthPlan, bucket: int, drops: Sequence[str] = ()) -> list[Axes]:
    """The whole range of each unit that a plan cuts anywhere, in even steps, and the plan's own widths.

    What all layers share stays as it is in the plan. Layers may also lose attention or MLP whole, if `drops` names KV
    groups or MLP dims.
    """
    layers = list(zip(source.layers, plan.layers, strict=True))
    droppable = [unit for unit in (GROUPS, MLP) if unit.name in drops]
    cut = [unit for unit in UNITS.values() if any(0 < unit.width(own) < unit.width(layer) for layer, own in layers)]
    grid: list[Axes] = []
    for layer, own in layers:
        axes: dict[Unit, Sequence[int]] = {}
        for unit in (unit for unit in UNITS.values() if unit in cut or unit in droppable):
            step, full, levels = _step(unit, plan, bucket), unit.width(layer), LEVELS.get(unit, LEVELS[None])
            if unit.all_layers:
                axes[unit] = [unit.width(plan.widest) if full else 0]
                continue
            even = {round(full * part / levels / step) * step for part in range(1, levels)} if unit in cut else ()
            # A layer that lost its attention has no dims in heads: where it comes back, it has all of them.
            kept = unit.width(own) or full
            widths = {min(full, max(unit.least, step, width)) for width in even if full} | {kept, full}
            axes[unit] = sorted(widths | ({0} if unit in droppable else set()))
        grid.append(axes)
    return grid


def fine(source: WidthPlan, plan: WidthPlan, bucket: int, grid: Sequence[Axes], part: int) -> list[Axes]:
    """Widths around a plan's, in steps that are a `part` of those of the first grid; what is gone stays gone."""
    finer: list[Axes] = []
    for layer, own, axes in zip(source.layers, plan.layers, grid, strict=True):
        around: dict[Unit, Sequence[int]] = {}
        for unit in axes:
            step, full, levels = _step(unit, plan, bucket), unit.width(layer), LEVELS.get(unit, LEVELS[None])
            stride, width = max(1, round(full / levels / part / step)) * step, unit.width(own)
            steps = {width + count * stride for count in AROUND if len(axes[unit]) > 1 and width}
            around[unit] = sorted({min(full, max(unit.least, step, each)) for each in steps} | {width})
        finer.append(around)
    return finer


def _step(unit: Unit, plan: WidthPlan, bucket: int) -> int:
    """Other numbers of KV groups than multiples of the plan's would mean more calls of attention."""
    return {MLP: bucket, GROUPS: plan.virtual_num_key_value_heads}.get(unit, unit.step)


@dataclass(frozen=True)
class Space:
    """The plans on a grid that are within limits."""

    source: WidthPlan
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
        """The plan with one width so many steps further along its axis, as far as it goes.

        Attention that comes back has all dims in its heads, and the query heads of other layers. A layer without it has
        none to change, and the last attention, or MLP, stays.
        """
        layer, widths = plan.layers[index], self.grid[index][unit]
        if unit.width(layer) not in widths:
            return plan
        width = widths[min(max(widths.index(unit.width(layer)) + steps, 0), len(widths) - 1)]
        if unit is GROUPS and width and not layer.has_attention:
            layer = replace(self.source.layers[index], intermediate_size=layer.intermediate_size)
            for other, (only, *_) in self.grid[index].items():
                layer = other.narrowed(layer, only) if other.all_layers else layer
        layers = list(plan.layers)
        layers[index] = unit.narrowed(layer, width)
        is_whole = all(any(getattr(each, has) for each in layers) for has in ("has_attention", "has_mlp"))
        return plan.with_layers(layers) if is_whole else plan

    def _holds(self, plan: WidthPlan) -> bool:
        return all(limit.holds(plan) for limit in self.limits)
