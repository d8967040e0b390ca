"""Spends a budget where it costs the least loss: units against units, layers against layers.

The attention and the MLP of each layer take one of their widths, whose losses are read from sensitivity curves. What
they use of a limit adds up once it is known what all layers share: the KV heads of a cache layer, the cache's head dim,
and the query heads of a KV head. Each such `_Shape` is a program for HiGHS (`program`). Its plan is measured whole, and
the bounds are corrected by what didn't add up until the plan meets the limits and a larger one wouldn't.

A model whose layers differ in KV heads calls attention several times per layer (`WidthPlan.virtual_layers`). Without a
limit on times, which knows what that takes, each call counts as the loss of cutting the parameters that could be read
in its time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np

from edge_transact import costs
from edge_transact.errors import UsageError
from edge_transact.pruning.allocate.limits import Limit
from edge_transact.pruning.allocate.program import Options, Solution, least_at, solve
from edge_transact.pruning.score.sensitivity import Curves
from edge_transact.pruning.units import (
    DEFAULT_UNITS,
    GROUPS,
    MLP,
    MODULES,
    QUERIES,
    QUERIES_KEYS,
    UNITS,
    VALUES,
    Module,
    Unit,
)
from edge_transact.widths import CACHE_HEAD_DIM_MULTIPLE, LayerWidths, WidthPlan

CORRECTIONS = 8
"""How often bounds are corrected by what the measure of a whole plan differs from the sum over its layers."""


CHEAP = 0.25
"""The share of modules whose next cut is cheaper than what an attention call is priced with."""


@dataclass(frozen=True)
class Spent:
    """A plan that meets its limits, and its predicted loss in nats a token.

    `losses` are those of each layer by module.

    `price` is the predicted loss per parameter of a cheap cut that remains: `CHEAP` of all modules have a cheaper one.
    """

    plan: WidthPlan
    loss: float
    price: float
    losses: tuple[dict[Module, float], ...]


def cheapest(
    source: WidthPlan,
    curves: Sequence[Curves],
    limits: Sequence[Limit],
    *,
    units: Sequence[str] = DEFAULT_UNITS,
    bucket: int,
    drops: bool = False,
) -> Spent:
    """The plan that meets all limits at the least predicted loss, including the cost of attention calls.

    Each layer of `curves` has at least those of `units`; MLP widths are multiples of `bucket`. With `drops`, layers may
    lose all of their KV groups or MLP dims, if these are among `units`; the first entry of a curve is the loss of that.

    Raises:
        UsageError: There is no such plan.
    """
    space = _Space(source, curves, limits, units, bucket, drops)
    best = _best(space, 0.0)
    if best is None:
        raise UsageError("no plan meets all limits at once", fix="Allow more of one of them.")
    _, price = _loss_and_price(best)
    if price and not any(limit.is_time for limit in limits):
        best = _best(space, price * costs.ATTENTION_CALL_PARAMETERS, best) or best
    of_modules = [float(losses[index]) for (_, losses), index in zip(best.modules, best.solution.chosen, strict=True)]
    layers = source.num_hidden_layers
    by_layer = [
        dict(zip(MODULES, pair, strict=True)) for pair in zip(of_modules[:layers], of_modules[layers:], strict=True)
    ]
    return Spent(space.plan(best.modules, best.solution.chosen), *_loss_and_price(best), tuple(by_layer))


NOTHING = LayerWidths(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class _Shape:
    """What all layers share: KV heads of a cache layer, the cache's head dim, query heads of a KV head."""

    kv_heads: int
    head_dim: int
    q_per_kv: int


@dataclass(frozen=True, eq=False)
class _Choices:
    """What one layer's attention or MLP, the `whole`, can become: widths of a layer that has nothing else.

    `uses` are what each uses of the limits, and then whether an attention, or an MLP, is dropped.
    """

    whole: LayerWidths
    widths: Sequence[LayerWidths]
    uses: np.ndarray
    parameters: np.ndarray
    calls: np.ndarray

    def narrowest(self) -> int:
        """The index of the narrowest widths that aren't none at all."""
        return len(self.widths) - 1 - bool(self.uses[-2:].any())

    @cached_property
    def sizes(self) -> Mapping[Unit, np.ndarray]:
        return {unit: np.array([unit.count(layer) for layer in self.widths], int) for unit in UNITS.values()}


_Module = tuple[_Choices, np.ndarray]
"""The choices of one layer's attention or MLP, and their losses."""


@dataclass(frozen=True)
class _Fitted:
    """A choice for each module, as a plan that meets the limits."""

    modules: Sequence[_Module]
    solution: Solution


def _best(space: _Space, call: float, known: _Fitted | None = None) -> _Fitted | None:
    """The best choices of all shapes, where each attention call costs a loss of `call`; `None` if there are none.

    `known` is the best for another cost of calls. Otherwise the last shape comes first: it leaves the most choices.
    """
    first = known.modules if known else space.models[-1]
    best = _fitted(space, first, call, None)
    others = [modules for modules in space.models if modules is not first]
    if best and (prices := best.solution.prices) is not None:
        others.sort(key=lambda modules: least_at(prices, _options(modules, call)))
    for modules in others:
        best = _fitted(space, modules, call, best) or best
    return best


def _options(modules: Sequence[_Module], call: float) -> list[Options]:
    return [Options(losses + call * choices.calls, choices.uses) for choices, losses in modules]


def _fitted(space: _Space, modules: Sequence[_Module], call: float, best: _Fitted | None) -> _Fitted | None:
    """The best choices of one shape, if they are better than those of other shapes."""
    options = _options(modules, call)
    tolerance = 1e-6 * np.abs(space.bounds)
    largest, smallest = (
        space.beyond_sum(modules, [at(choices) for choices, _ in modules]) for at in (lambda _: 0, _Choices.narrowest)
    )
    found, offsets = None, largest
    for _ in range(CORRECTIONS):
        known = found or best
        below, prices = (known.solution.loss - 1e-9, known.solution.prices) if known else (math.inf, None)
        solution = solve(options, space.bounds - offsets, below=below, prices=prices)
        if solution is None and not found and (smallest < offsets - tolerance).any():
            # What doesn't add up may take less in smaller plans.
            offsets, smallest = smallest, np.full_like(smallest, math.inf)
            continue
        if solution is None:
            break
        beyond = space.beyond_sum(modules, solution.chosen)
        if space.holds(modules, solution.chosen):
            found = _Fitted(modules, solution)
            if (beyond >= offsets - tolerance).all():
                break
            offsets = beyond
        else:
            # The solver's own tolerance is corrected, too.
            offsets = np.maximum(beyond, offsets + tolerance)
    return found


def _loss_and_price(fitted: _Fitted) -> tuple[float, float]:
    loss, cheapest_cuts = 0.0, []
    for (choices, losses), index in zip(fitted.modules, fitted.solution.chosen, strict=True):
        loss += float(losses[index])
        saved = choices.parameters[index] - choices.parameters
        cheapest_cuts += [((losses - losses[index])[saved > 0] / saved[saved > 0]).min()] if saved.max() > 0 else []
    # Of a curve with noise, one cut may seem to cost nothing.
    return loss, max(0.0, float(np.quantile(cheapest_cuts, CHEAP))) if cheapest_cuts else 0.0


class _Space:
    """All that layers can become, and what it uses of the limits. Layers that are alike share the latter."""

    def __init__(
        self,
        source: WidthPlan,
        curves: Sequence[Curves],
        limits: Sequence[Limit],
        units: Sequence[str],
        bucket: int,
        drops: bool,
    ) -> None:
        self.source = source
        self.limits = limits
        self._units = [UNITS[name] for name in units]
        self._curves = [{unit: of_layer[unit.name].double().numpy() for unit in self._units} for of_layer in curves]
        self._bucket = bucket
        self._drops = drops
        # At least one layer keeps its attention, and one its MLP.
        present = [sum(layer.has_attention for layer in source.layers), sum(layer.has_mlp for layer in source.layers)]
        self.bounds = np.array([*(limit.bound for limit in limits), *(count - 1.0 for count in present)])
        self._whole = _Shape(source.virtual_num_key_value_heads, source.cache_head_dim, source.q_per_kv)
        self._known: dict[tuple[LayerWidths, _Shape], _Choices] = {}

    @cached_property
    def models(self) -> list[list[_Module]]:
        """For each shape, the choices of each layer's attention and then of each layer's MLP, with their losses."""
        models = [self._modules(shape) for shape in self._shapes()]
        return [modules for modules in models if all(len(losses) for _, losses in modules)]

    def _shapes(self) -> Iterator[_Shape]:
        """The shapes that the model can take, those with fewer attention calls first, and those with most choices last.

        A smaller head dim of the cache leaves fewer choices, and is left out where no limit depends on it.
        """
        widest, head_dim = self._whole.kv_heads, self._whole.head_dim
        if GROUPS in self._units:
            widest = max(layer.num_key_value_heads for layer in self.source.layers)
        narrower = [dim for dim in range(head_dim - 1, 0, -1) if dim % CACHE_HEAD_DIM_MULTIPLE == 0]
        if not any(unit.sets_cache_head_dim for unit in self._units):
            narrower = []
        for kv_heads in range(widest, 0, -1) if GROUPS in self._units else [widest]:
            for q_per_kv in range(self._whole.q_per_kv, 0, -1) if QUERIES in self._units else [self._whole.q_per_kv]:
                shape = _Shape(kv_heads, head_dim, q_per_kv)
                for smaller in (replace(shape, head_dim=dim) for dim in narrower):
                    layer = self._layer(smaller)
                    if (self._used(layer, smaller) < self._used(layer, shape)).any():
                        yield smaller
                yield shape

    def _modules(self, shape: _Shape) -> list[_Module]:
        layers = list(zip(self.source.layers, self._curves, strict=True))
        attention = [
            (self._choices(replace(layer, intermediate_size=0), shape), layer, curves) for layer, curves in layers
        ]
        mlp = [
            (self._choices(LayerWidths(0, 0, 0, 0, layer.intermediate_size), self._whole), layer, curves)
            for layer, curves in layers
        ]
        return [(choices, _losses(choices, layer, curves)) for choices, layer, curves in attention + mlp]

    def plan(self, modules: Sequence[_Module], chosen: Sequence[int]) -> WidthPlan:
        widths = [choices.widths[index] for (choices, _), index in zip(modules, chosen, strict=True)]
        layers = self.source.num_hidden_layers
        return self.source.with_layers(
            replace(attention, intermediate_size=mlp.intermediate_size)
            for attention, mlp in zip(widths[:layers], widths[layers:], strict=True)
        )

    def holds(self, modules: Sequence[_Module], chosen: Sequence[int]) -> bool:
        plan = self.plan(modules, chosen)
        return all(limit.holds(plan) for limit in self.limits)

    def beyond_sum(self, modules: Sequence[_Module], chosen: Sequence[int]) -> np.ndarray:
        """What the whole plan uses of each limit beyond the sum of what its modules do."""
        plan = self.plan(modules, chosen)
        used = [choices.uses[:-2, index] for (choices, _), index in zip(modules, chosen, strict=True)]
        return np.append([limit.measure(plan) for limit in self.limits] - np.sum(used, axis=0), [0.0, 0.0])

    def _choices(self, module: LayerWidths, shape: _Shape) -> _Choices:
        """The choices of an attention or an MLP in a model of this shape."""
        if (module, shape) not in self._known:
            self._known[module, shape] = self._listed(module, shape)
        return self._known[module, shape]

    def _listed(self, module: LayerWidths, shape: _Shape) -> _Choices:
        widths, pairs, values = [module], [0], [0]
        if module.has_attention:
            step = shape.kv_heads if GROUPS in self._units else module.num_key_value_heads
            pairs, values = (
                [width for width in self._widths(unit, module) if width <= shape.head_dim]
                for unit in (QUERIES_KEYS, VALUES)
            )
            heads = range(module.num_key_value_heads // step * step, 0, -step)
            widths = [
                LayerWidths(groups * shape.q_per_kv, groups, qk, v, 0)
                for groups, qk, v in itertools.product(heads, pairs, values)
            ]
        elif module.has_mlp:
            widths = [replace(module, intermediate_size=width) for width in self._widths(MLP, module)]

        @cache
        def used(layer: LayerWidths) -> np.ndarray:
            return self._used(layer, shape)

        def uses(layer: LayerWidths) -> np.ndarray:
            if not layer.has_attention:
                return used(layer)
            # What pairs and values use of a limit adds up: the rest is measured once.
            all_pairs, all_values = replace(layer, qk_head_dim=pairs[0]), replace(layer, v_head_dim=values[0])
            return used(all_pairs) + used(all_values) - used(replace(all_pairs, v_head_dim=values[0]))

        rows = [uses(layer) for layer in widths]
        is_dropped = np.zeros((2, len(rows)))
        unit = GROUPS if module.has_attention else MLP
        if self._drops and unit in self._units and unit.width(module) and widths:
            widths, rows = [*widths, NOTHING], [*rows, np.zeros(len(self.limits) + 1)]
            is_dropped = np.append(is_dropped, [[unit is GROUPS], [unit is MLP]], axis=1)
        table = np.reshape(rows, (len(rows), len(self.limits) + 1)).T
        calls = np.array([layer.num_key_value_heads / shape.kv_heads for layer in widths])
        return _Choices(module, widths, np.vstack([table[:-1], is_dropped]), table[-1], calls)

    def _widths(self, unit: Unit, module: LayerWidths) -> list[int]:
        """The widths that a unit can have, the present one first."""
        width, step = unit.width(module), self._bucket if unit is MLP else unit.step
        if unit not in self._units:
            return [width]
        return [width, *range((width - 1) // step * step, max(step, unit.least) - 1, -step)]

    def _layer(self, shape: _Shape) -> LayerWidths:
        head_dim = self.source.head_dim if self.source.use_qk_norm else min(shape.head_dim, self.source.head_dim)
        heads, mlp = shape.kv_heads * shape.q_per_kv, self.source.widest.intermediate_size
        return LayerWidths(heads, shape.kv_heads, head_dim, shape.head_dim, mlp)

    def _used(self, layer: LayerWidths, shape: _Shape) -> np.ndarray:
        """What a layer uses of each limit in a model of this shape, and its parameters."""
        plans = (self.source.with_layers([self._layer(shape), *more]) for more in ([layer], []))
        both, one = (
            [*(limit.measure(plan) for limit in self.limits), costs.prunable_parameters(plan)] for plan in plans
        )
        return np.subtract(both, one)


def _losses(choices: _Choices, layer: LayerWidths, curves: Mapping[Unit, np.ndarray]) -> np.ndarray:
    """The losses of a layer's choices: those of the units that are cut, or of the whole module."""
    losses = np.zeros(len(choices.widths))
    is_dropped = choices.uses[-2:].any(axis=0)
    for unit, curve in curves.items():
        if unit.width(choices.whole):
            added = curve[choices.sizes[unit]] - curve[unit.count(layer)]
            losses = np.where(is_dropped, added if unit in (GROUPS, MLP) else losses, losses + added)
    return losses
