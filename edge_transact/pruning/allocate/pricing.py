"""Spends a budget where it costs the least loss: units against units, layers against layers.

Every layer has a curve of loss by width for each unit. Cuts with the least loss for what they save of the limits are
taken until no limit is exceeded. They follow the lower convex hull of each curve, which makes the sum of losses
optimal, except for the last cut. A model whose layers differ in KV heads calls attention several times per layer
(`WidthPlan.virtual_layers`): each call counts as the loss of cutting the parameters that could be read in its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from edge_transact import costs
from edge_transact.errors import UsageError
from edge_transact.pruning.allocate.curves import Curves
from edge_transact.pruning.allocate.limits import Limit, require_reachable
from edge_transact.pruning.units import DEFAULT_UNITS, GROUPS, MLP, QUERIES, UNITS, Unit
from edge_transact.widths import CACHE_HEAD_DIM_MULTIPLE, LayerWidths, WidthPlan


@dataclass(frozen=True)
class Spent:
    """A plan that meets its limits, and its predicted loss in nats a token.

    `price` is the predicted loss per parameter of the cheapest cut that remains.
    """

    plan: WidthPlan
    loss: float
    price: float


def cheapest(
    source: WidthPlan,
    curves: Sequence[Curves],
    limits: Sequence[Limit],
    *,
    units: Sequence[str] = DEFAULT_UNITS,
    bucket: int,
) -> Spent:
    """The plan that meets all limits at the least predicted loss, including the cost of attention calls.

    Compares plans whose KV heads are multiples of larger or smaller steps. Each layer of `curves` has at least those of
    `units`; MLP widths are multiples of `bucket`.

    Raises:
        UsageError: There is no such plan; the message names the limit that binds.
    """
    heads = source.virtual_num_key_value_heads
    divisors = [step for step in range(heads, 0, -1) if heads % step == 0] if GROUPS.name in units else [heads]
    best: Spent | None = None
    for divisor in divisors:
        steps = {MLP: bucket, GROUPS: divisor}
        layers = [
            {UNITS[name]: _Curve.of(UNITS[name], widths, losses[name], steps.get(UNITS[name])) for name in units}
            for losses, widths in zip(curves, source.layers, strict=True)
        ]
        try:
            spent = _spend(source, layers, limits)
        except UsageError:
            # A smaller step may still reach the limits.
            if divisor == divisors[-1] and best is None:
                raise
            continue
        if best is not None and not _with_calls(spent, spent.price) < _with_calls(best, spent.price):
            # Smaller steps would only mean more calls.
            break
        best = spent
    assert best is not None
    return best


def _with_calls(spent: Spent, price: float) -> float:
    return spent.loss + price * costs.ATTENTION_CALL_PARAMETERS * spent.plan.num_virtual_layers


@dataclass(frozen=True)
class _Curve:
    """The widths that one unit of one layer can take, the present one first, their losses, and the source's loss."""

    widths: tuple[int, ...]
    losses: tuple[float, ...]
    full_loss: float

    @classmethod
    def of(cls, unit: Unit, layer: LayerWidths, losses: torch.Tensor, step: int | None = None) -> _Curve:
        """The curve at the layer's own width; `step` overrides the unit's."""
        step = step or unit.step
        width = unit.width(layer)
        widths = (width, *range((width - 1) // step * step, max(step, unit.least) - 1, -step))
        at = tuple(losses[[width // unit.dims_per_unit for width in widths]].tolist())
        return cls(widths, at, at[0])

    @cached_property
    def corner(self) -> int | None:
        """The width at the next corner of the lower convex hull; `None` at the end of the curve."""
        width, loss = self.widths[0], self.losses[0]
        narrower = list(zip(self.widths, self.losses, strict=True))[1:]
        best = min(narrower, key=lambda point: (point[1] - loss) / (width - point[0]), default=None)
        return best[0] if best else None

    def at_most(self, width: int) -> int | None:
        """The largest of `widths` that is at most `width`, if any."""
        return next((choice for choice in self.widths if choice <= width), None)

    def added_loss(self, width: int) -> float:
        """What narrowing from the present width to one of `widths` costs."""
        return self.losses[self.widths.index(width)] - self.losses[0]

    def narrowed(self, width: int) -> _Curve:
        """The rest of the curve, from one of `widths` on."""
        at = self.widths.index(width)
        return _Curve(self.widths[at:], self.losses[at:], self.full_loss)


_Layers = Sequence[dict[Unit, _Curve]]
"""The curves of every layer."""


@dataclass(frozen=True)
class _Move:
    """One unit of one layer that gets narrower."""

    layer: int
    unit: Unit
    width: int


@dataclass(frozen=True)
class _Cut:
    """Moves that are made together, and the predicted loss that they add.

    `of_one_layer` tells whether it is made for what one layer saves, and not for what all of them together do.
    """

    moves: tuple[_Move, ...]
    loss: float
    of_one_layer: bool

    @classmethod
    def of(cls, moves: Sequence[_Move], layers: _Layers, *, of_one_layer: bool = False) -> _Cut:
        loss = sum(layers[move.layer][move.unit].added_loss(move.width) for move in moves)
        return cls(tuple(moves), loss, of_one_layer)

    def applied(self, plan: WidthPlan) -> WidthPlan:
        """The plan after the cut."""
        widths = list(plan.layers)
        for move in self.moves:
            widths[move.layer] = move.unit.narrowed(widths[move.layer], move.width)
        return plan.with_layers(widths)


def _spend(source: WidthPlan, layers: _Layers, limits: Sequence[Limit]) -> Spent:
    """The plan that meets all limits at the least loss on these curves, without the cost of attention calls."""
    savings = _Savings(source, limits)
    layers = [dict(of_layer) for of_layer in layers]
    plan = source
    while True:
        excess = [max(0, limit.measure(plan) - limit.bound) for limit in limits]
        cuts = [*_cuts_of_one_layer(layers), *_cuts_of_all_layers(layers)]
        if not any(excess):
            loss = sum(curve.losses[0] - curve.full_loss for of_layer in layers for curve in of_layer.values())
            parameters = costs.prunable_parameters(plan)
            of_one = (cut.loss / (parameters - costs.prunable_parameters(cut.applied(plan))) for cut in cuts)
            return Spent(plan, loss, min(of_one, default=0.0))
        cuts += _cuts_of_the_cache(plan, layers)
        prices = [(_price(cut.loss, savings.of(cut, plan), excess), cut) for cut in cuts]
        helpful = [(price, cut) for price, cut in prices if price is not None]
        if not helpful:
            require_reachable(limits, plan)
        _, cut = min(helpful, key=lambda priced: priced[0])
        plan = cut.applied(plan)
        for move in cut.moves:
            layers[move.layer][move.unit] = layers[move.layer][move.unit].narrowed(move.width)


def _price(loss: float, saved: Sequence[float], excess: Sequence[float]) -> float | None:
    """Loss per share of the way to all limits; `None` if the cut saves nothing of those that are exceeded."""
    way = sum(min(gain, over) / over for gain, over in zip(saved, excess, strict=True) if over and gain > 0)
    return loss / way if way else None


class _Savings:
    """What cuts save of each limit. Many layers are alike, so savings of one layer are remembered by its widths."""

    def __init__(self, source: WidthPlan, limits: Sequence[Limit]) -> None:
        self._source = source
        self._limits = limits
        self._known: dict[tuple[LayerWidths, Unit, int], list[float]] = {}

    def of(self, cut: _Cut, plan: WidthPlan) -> list[float]:
        """What the cut saves of each limit, from `plan`."""
        if not cut.of_one_layer:
            after = cut.applied(plan)
            return [limit.measure(plan) - limit.measure(after) for limit in self._limits]
        (move,) = cut.moves
        layer = plan.layers[move.layer]
        key = (layer, move.unit, move.width)
        if key not in self._known:
            before, after_move = self._costs(layer), self._costs(move.unit.narrowed(layer, move.width))
            self._known[key] = [a - b for a, b in zip(before, after_move, strict=True)]
        return self._known[key]

    def _costs(self, layer: LayerWidths) -> list[float]:
        # Next to the source's widest layer, so that the cache's head dim doesn't change.
        widest = QUERIES.narrowed(self._source.widest, layer.q_per_kv or self._source.q_per_kv)
        plan = self._source.with_layers([widest, layer])
        return [limit.measure(plan) for limit in self._limits]


def _cuts_of_one_layer(layers: _Layers) -> Iterator[_Cut]:
    """For each unit of each layer, the cut to the next corner of its curve."""
    for index, of_layer in enumerate(layers):
        for unit, curve in of_layer.items():
            if curve.corner is not None and not unit.all_layers:
                yield _Cut.of([_Move(index, unit, curve.corner)], layers, of_one_layer=True)


def _cuts_of_all_layers(layers: _Layers) -> Iterator[_Cut]:
    """For each unit that all layers must keep alike, the cut of one more from each of them."""
    for unit in layers[0]:
        if unit.all_layers and all(len(of_layer[unit].widths) > 1 for of_layer in layers):
            yield _Cut.of([_Move(i, unit, of_layer[unit].widths[1]) for i, of_layer in enumerate(layers)], layers)


def _cuts_of_the_cache(plan: WidthPlan, layers: _Layers) -> Iterator[_Cut]:
    """The cut of all layers that takes the KV cache's one head dim to the next smaller one, if it is possible."""
    goal = (plan.cache_head_dim - 1) // CACHE_HEAD_DIM_MULTIPLE * CACHE_HEAD_DIM_MULTIPLE
    moves = []
    for index, of_layer in enumerate(layers):
        for unit, curve in of_layer.items():
            width = curve.at_most(goal) if unit.sets_cache_head_dim else None
            if width is not None and width < curve.widths[0]:
                moves.append(_Move(index, unit, width))
    cut = _Cut.of(moves, layers)
    if moves and cut.applied(plan).cache_head_dim <= goal:
        yield cut
