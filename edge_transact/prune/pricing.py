"""A budget spent where it costs the least loss: units against units, layers against layers.

Every layer has a curve of loss by width for each kind of unit. The cheapest cut is the one of the least loss for what
it saves of the limits that are still exceeded; cuts are taken until none is. Taking them along the lower convex hull of
each curve makes this the optimum of the sum of losses, but for the last cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from edge_transact.prune.limits import Limit, binding
from edge_transact.widths import CACHE_HEAD_DIM_MULTIPLE, LayerWidths, WidthPlan

UNITS: Mapping[str, str] = {
    "mlp": "intermediate_loss",
    "groups": "groups_loss",
    "values": "v_dims_loss",
    "queries-keys": "qk_pairs_loss",
}
"""What may be cut, and the curve that prices it: ``[units + 1]``, the loss in nats a token by units kept."""

HEAD_DIM_STEP = 8
"""Dims inside heads go so many at a time."""

Curves = Mapping[str, torch.Tensor]


def cheapest(
    source: WidthPlan,
    curves: Sequence[Curves],
    limits: Sequence[Limit],
    *,
    units: Sequence[str] = tuple(UNITS),
    bucket: int,
) -> tuple[WidthPlan, float]:
    """The plan that meets all limits at the least predicted loss.

    Args:
        source: The widths to start from.
        curves: For each layer, what `UNITS` names.
        limits: What must hold.
        units: What may be cut.
        bucket: MLP widths are multiples of it.

    Returns:
        The plan, and its predicted loss in nats a token.

    Raises:
        UsageError: No such plan; it says which limit binds.
    """
    layers = list(source.layers)
    prices = [
        {unit: _Curve(of_layer[UNITS[unit]], unit, widths, bucket) for unit in units}
        for of_layer, widths in zip(curves, source.layers, strict=True)
    ]
    savings: dict[tuple[int, str], list[float]] = {}
    while True:
        plan = source.with_layers(layers)
        excess = [max(0, limit.measure(plan) - limit.bound) for limit in limits]
        if not any(excess):
            return plan, sum(curve.loss for of_layer in prices for curve in of_layer.values())
        best: tuple[float, list[tuple[int, str]]] | None = None
        for index, of_layer in enumerate(prices):
            for unit, curve in of_layer.items():
                if curve.following is None:
                    continue
                if (index, unit) not in savings:
                    after = _cut(layers[index], unit, curve.widths[curve.following])
                    savings[index, unit] = _savings(source, layers[index], after, limits)
                price = _price(curve.step_loss, savings[index, unit], excess)
                if price is not None and (best is None or price < best[0]):
                    best = price, [(index, unit)]
        together = _narrower_cache(plan, prices)
        if together:
            after_all = list(layers)
            for index, unit, position in together:
                after_all[index] = _cut(after_all[index], unit, prices[index][unit].widths[position])
            saved = [limit.measure(plan) - limit.measure(source.with_layers(after_all)) for limit in limits]
            loss = sum(prices[index][unit].loss_at(position) for index, unit, position in together)
            price = _price(loss, saved, excess)
            if price is not None and (best is None or price < best[0]):
                for index, unit, position in together:
                    prices[index][unit].move(position)
                layers = after_all
                savings.clear()
                continue
        if best is None:
            raise binding(limits, plan)
        for index, unit in best[1]:
            curve = prices[index][unit]
            assert curve.following is not None
            layers[index] = _cut(layers[index], unit, curve.widths[curve.following])
            curve.move(curve.following)
            for other in units:
                savings.pop((index, other), None)


class _Curve:
    """One unit of one layer: the widths that it may take, and where it is."""

    def __init__(self, losses: torch.Tensor, unit: str, layer: LayerWidths, bucket: int) -> None:
        self.widths = _choices(unit, layer, bucket)
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

    @property
    def step_loss(self) -> float:
        """What the next step costs."""
        assert self.following is not None
        return self.loss_at(self.following)

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


def _choices(unit: str, layer: LayerWidths, bucket: int) -> list[int]:
    """The widths of a unit from its present one down."""
    width, step = {
        "mlp": (layer.intermediate_size, bucket),
        "groups": (layer.num_key_value_heads, 1),
        "values": (layer.v_head_dim, HEAD_DIM_STEP),
        "queries-keys": (layer.qk_head_dim, HEAD_DIM_STEP),
    }[unit]
    least = max(step, CACHE_HEAD_DIM_MULTIPLE) if unit in ("values", "queries-keys") else step
    narrower = range((width - 1) // step * step, least - 1, -step)
    return [width, *narrower]


def _cut(layer: LayerWidths, unit: str, width: int) -> LayerWidths:
    if unit == "groups":
        return replace(layer, num_attention_heads=width * layer.q_per_kv, num_key_value_heads=width)
    field = {"mlp": "intermediate_size", "values": "v_head_dim", "queries-keys": "qk_head_dim"}[unit]
    return replace(layer, **{field: width})


def _savings(source: WidthPlan, before: LayerWidths, after: LayerWidths, limits: Sequence[Limit]) -> list[float]:
    """What a cut of one layer saves of each limit, all other layers as they are."""

    # Beside the widest layer, so that the cache's head dim stays.
    def cost(layer: LayerWidths) -> list[float]:
        plan = source.with_layers([source.widest, layer])
        return [limit.measure(plan) for limit in limits]

    return [a - b for a, b in zip(cost(before), cost(after), strict=True)]


def _price(loss: float, saved: Sequence[float], excess: Sequence[float]) -> float | None:
    """Loss by share of the way to all limits; `None` where nothing is saved of those that are exceeded."""
    way = sum(min(gain, over) / over for gain, over in zip(saved, excess, strict=True) if over and gain > 0)
    return loss / way if way else None


def _narrower_cache(plan: WidthPlan, prices) -> list[tuple[int, str, int]]:
    """The cuts, by layer, unit and position, that take the KV cache's one head dim to the next one below."""
    units = ("values", "queries-keys")
    if not all(unit in of_layer for of_layer in prices for unit in units):
        return []
    goal = (plan.cache_head_dim - 1) // CACHE_HEAD_DIM_MULTIPLE * CACHE_HEAD_DIM_MULTIPLE
    cuts = []
    for index, of_layer in enumerate(prices):
        for unit in units:
            widths = of_layer[unit].widths
            width = plan.layers[index].v_head_dim if unit == "values" else plan.layers[index].qk_head_dim
            if width <= goal:
                continue
            position = next((at for at, choice in enumerate(widths) if choice <= goal), None)
            if position is None:
                return []
            cuts.append((index, unit, position))
    return cuts
