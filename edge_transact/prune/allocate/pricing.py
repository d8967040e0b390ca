"""A budget spent where it costs the least loss: units against units, layers against layers.

Every layer has a curve of loss by width for each kind of unit. The cheapest cut is the one of the least loss for what
it saves of the limits that are still exceeded; cuts are taken until none is. Taking them along the lower convex hull of
each curve makes this the optimum of the sum of losses, but for the last cut.

KV groups have a price of their own. The KV cache has one number of heads for all its layers, so a model whose layers
differ in KV heads calls attention many times a layer (`WidthPlan.virtual_layers`), which takes longer than what the
groups that went would have taken. `cheapest` looks at plans whose KV heads all come in larger or smaller steps, and
counts each call as the loss of the parameters that could be read in its time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from edge_transact import costs
from edge_transact.errors import UsageError
from edge_transact.prune.allocate.limits import Limit, binding
from edge_transact.widths import CACHE_HEAD_DIM_MULTIPLE, LayerWidths, WidthPlan

UNITS: Mapping[str, str] = {
    "mlp": "intermediate_loss",
    "groups": "groups_loss",
    "queries": "queries_loss",
    "values": "v_dims_loss",
    "queries-keys": "qk_pairs_loss",
}
"""What may be cut, and the curve that prices it: ``[units + 1]``, the loss in nats a token by units kept.

MLP dims; KV groups; query heads inside every KV group, of which all layers keep as many; value dims; RoPE pairs.
"""

DEFAULT_UNITS = ("mlp", "groups", "values", "queries-keys")
"""What is cut unless it is said."""

HEAD_DIM_STEP = 8
"""Dims inside heads go so many at a time."""

Curves = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Spent:
    """A plan that meets its limits.

    Attributes:
        plan: The widths.
        loss: Predicted, in nats a token.
        price: Of a parameter more: what the cheapest cut that is left costs for each that it takes, in nats a token.
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
    """The plan that meets all limits at the least predicted loss, attention calls counted.

    Args:
        source: The widths to start from.
        curves: For each layer, what `UNITS` names.
        limits: What must hold.
        units: What may be cut.
        bucket: MLP widths are multiples of it.

    Raises:
        UsageError: No such plan; it says which limit binds.
    """
    heads = source.virtual_num_key_value_heads
    steps = [step for step in range(heads, 0, -1) if heads % step == 0] if "groups" in units else [heads]
    best: Spent | None = None
    for step in steps:
        try:
            spent = _spend(source, curves, limits, units, bucket, step)
        except UsageError:
            # A smaller step may reach the limits yet.
            if step == steps[-1] and best is None:
                raise
            continue
        if best is not None and not _with_calls(spent, spent.price) < _with_calls(best, spent.price):
            # Still smaller steps mean still more calls.
            break
        best = spent
    assert best is not None
    return best


def _with_calls(spent: Spent, price: float) -> float:
    return spent.loss + price * costs.ATTENTION_CALL_PARAMETERS * spent.plan.num_virtual_layers


def _spend(
    source: WidthPlan,
    curves: Sequence[Curves],
    limits: Sequence[Limit],
    units: Sequence[str],
    bucket: int,
    group_step: int,
) -> Spent:
    """`cheapest` with KV heads in multiples of a step, attention calls not counted."""
    prices = [
        {unit: _Curve(of_layer[UNITS[unit]], unit, widths, bucket, group_step) for unit in units}
        for of_layer, widths in zip(curves, source.layers, strict=True)
    ]
    savings: dict[tuple[LayerWidths, str, int], Sequence[float]] = {}

    def saved(cut: _Cut, plan: WidthPlan) -> Sequence[float]:
        """What a cut saves of each limit; of the many that are of one layer, remembered by what they are."""
        if len(cut) > 1:
            after = source.with_layers(_applied(cut, plan.layers, prices))
            return [limit.measure(plan) - limit.measure(after) for limit in limits]
        ((index, unit, position),) = cut
        layer, width = plan.layers[index], prices[index][unit].widths[position]
        if (layer, unit, width) not in savings:
            savings[layer, unit, width] = _savings(source, layer, _narrowed(layer, unit, width), limits)
        return savings[layer, unit, width]

    plan = source
    while True:
        excess = [max(0, limit.measure(plan) - limit.bound) for limit in limits]
        cuts: list[_Cut] = [
            ((index, unit, curve.following),)
            for index, of_layer in enumerate(prices)
            for unit, curve in of_layer.items()
            if curve.following is not None and unit != "queries"
        ]
        cuts += _fewer_queries(plan, prices)
        if not any(excess):
            loss = sum(curve.loss for of_layer in prices for curve in of_layer.values())
            return Spent(plan, loss, min((_price_of_a_parameter(cut, plan, prices) for cut in cuts), default=0.0))
        cuts += _narrower_cache(plan, prices)
        priced = []
        for cut in cuts:
            price = _price(_loss(cut, prices), saved(cut, plan), excess)
            if price is not None:
                priced.append((price, cut))
        if not priced:
            raise binding(limits, plan)
        _, cut = min(priced, key=lambda candidate: candidate[0])
        plan = source.with_layers(_applied(cut, plan.layers, prices))
        for index, unit, position in cut:
            prices[index][unit].move(position)


_Cut = tuple[tuple[int, str, int], ...]
"""What goes at once: layers, units, and the positions on their curves that they go to."""


def _applied(cut: _Cut, layers: Sequence[LayerWidths], prices: Sequence[Mapping[str, _Curve]]) -> Sequence[LayerWidths]:
    after = list(layers)
    for index, unit, position in cut:
        after[index] = _narrowed(after[index], unit, prices[index][unit].widths[position])
    return after


def _loss(cut: _Cut, prices: Sequence[Mapping[str, _Curve]]) -> float:
    return sum(prices[index][unit].loss_at(position) for index, unit, position in cut)


def _price_of_a_parameter(cut: _Cut, plan: WidthPlan, prices: Sequence[Mapping[str, _Curve]]) -> float:
    after = plan.with_layers(_applied(cut, plan.layers, prices))
    return _loss(cut, prices) / (costs.prunable_parameters(plan) - costs.prunable_parameters(after))


class _Curve:
    """One unit of one layer: the widths that it may take, and where it is."""

    def __init__(self, losses: torch.Tensor, unit: str, layer: LayerWidths, bucket: int, group_step: int) -> None:
        self.widths = _choices(unit, layer, bucket, group_step)
        kept = [width // 2 if unit == "queries-keys" else width for width in self.widths]
        self._losses = losses[kept].tolist()
        self._at = 0
        self._find()

    @property
    def loss(self) -> float:
        """The loss at the present width, beyond that at full width."""
        return self._losses[self._at] - self._losses[0]

    def loss_at(self, position: int) -> float:
        """What going to a position costs from here."""
        return self._losses[position] - self._losses[self._at]

    def move(self, position: int) -> None:
        self._at = position
        self._find()

    def _find(self) -> None:
        """The next corner of the lower convex hull."""
        further = range(self._at + 1, len(self.widths))
        here = self.widths[self._at]
        self.following: int | None = min(
            further, key=lambda position: self.loss_at(position) / (here - self.widths[position]), default=None
        )


def _choices(unit: str, layer: LayerWidths, bucket: int, group_step: int) -> list[int]:
    """The widths of a unit from its present one down."""
    width, step = {
        "mlp": (layer.intermediate_size, bucket),
        "groups": (layer.num_key_value_heads, group_step),
        "queries": (layer.q_per_kv, 1),
        "values": (layer.v_head_dim, HEAD_DIM_STEP),
        "queries-keys": (layer.qk_head_dim, HEAD_DIM_STEP),
    }[unit]
    least = max(step, CACHE_HEAD_DIM_MULTIPLE) if unit in ("values", "queries-keys") else step
    narrower = range((width - 1) // step * step, least - 1, -step)
    return [width, *narrower]


def _narrowed(layer: LayerWidths, unit: str, width: int) -> LayerWidths:
    if unit == "groups":
        return replace(layer, num_attention_heads=width * layer.q_per_kv, num_key_value_heads=width)
    if unit == "queries":
        return replace(layer, num_attention_heads=width * layer.num_key_value_heads)
    field = {"mlp": "intermediate_size", "values": "v_head_dim", "queries-keys": "qk_head_dim"}[unit]
    return replace(layer, **{field: width})


def _savings(source: WidthPlan, before: LayerWidths, after: LayerWidths, limits: Sequence[Limit]) -> list[float]:
    """What a cut of one layer saves of each limit, all other layers as they are."""

    # Beside the widest layer, so that the cache's head dim stays.
    def cost(layer: LayerWidths) -> list[float]:
        plan = source.with_layers([_narrowed(source.widest, "queries", layer.q_per_kv), layer])
        return [limit.measure(plan) for limit in limits]

    return [a - b for a, b in zip(cost(before), cost(after), strict=True)]


def _price(loss: float, saved: Sequence[float], excess: Sequence[float]) -> float | None:
    """Loss by share of the way to all limits; `None` where nothing is saved of those that are exceeded."""
    way = sum(min(gain, over) / over for gain, over in zip(saved, excess, strict=True) if over and gain > 0)
    return loss / way if way else None


def _narrower_cache(plan: WidthPlan, prices: Sequence[Mapping[str, _Curve]]) -> list[_Cut]:
    """The cut of all layers that takes the KV cache's one head dim to the next one below; none where it can't."""
    fields = {"values": "v_head_dim", "queries-keys": "qk_head_dim"}
    if not all(unit in of_layer for of_layer in prices for unit in fields):
        return []
    goal = (plan.cache_head_dim - 1) // CACHE_HEAD_DIM_MULTIPLE * CACHE_HEAD_DIM_MULTIPLE
    cuts = []
    for index, of_layer in enumerate(prices):
        for unit, field in fields.items():
            if getattr(plan.layers[index], field) > goal:
                position = next((at for at, width in enumerate(of_layer[unit].widths) if width <= goal), None)
                if position is None:
                    return []
                cuts.append((index, unit, position))
    return [tuple(cuts)] if cuts else []


def _fewer_queries(plan: WidthPlan, prices: Sequence[Mapping[str, _Curve]]) -> list[_Cut]:
    """The cut of all layers that leaves every KV group a query head less; none where it can't."""
    if plan.q_per_kv == 1 or not all("queries" in of_layer for of_layer in prices):
        return []
    goal = plan.q_per_kv - 1
    return [tuple((index, "queries", of_layer["queries"].widths.index(goal)) for index, of_layer in enumerate(prices))]
