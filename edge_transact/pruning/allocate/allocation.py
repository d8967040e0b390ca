"""From a budget to the widths of every layer, also in several shots, each of which scores what the one before left."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge_transact import costs
from edge_transact.errors import UsageError
from edge_transact.pruning.allocate.limits import Limit, limits_of, require_reachable
from edge_transact.pruning.allocate.solver import cheapest
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.score.sensitivity import Curves
from edge_transact.pruning.units import DEFAULT_UNITS, GROUPS, MLP, UNITS, Module
from edge_transact.widths import LayerWidths, WidthPlan, read_widths

SHARES = 64
"""The uniform share is lowered in steps of ``1 / SHARES``."""

MIN_GROUPS = 8
"""With fewer KV groups than this, one group is too coarse a step for a ratio, and the MLP takes all of the cut.

SmolLM2 has three. Dropping one raises perplexity by more than cutting 30 % of all parameters from the MLP.
"""

ROUNDED = (
    "a layer's share of them was rounded up to all, and other units were cut instead; a larger cut or --widths "
    "removes some"
)
DEARER = "cutting the other units costs less"
"""Why the plan of an allocation keeps all of a unit that the user named."""


@dataclass(frozen=True)
class Allocation:
    """The widths that meet a budget, and notes on what was decided or rounded, one sentence each.

    `losses` are predicted, of each layer by module, in nats a token, where the allocation has sensitivity curves.
    """

    plan: WidthPlan
    notes: tuple[str, ...] = ()
    losses: tuple[dict[Module, float], ...] = ()

    def provenance(self, limits: Sequence[Limit]) -> dict[str, Any]:
        """What ``edge_transact.json`` records: of each limit what is allowed and what the plan measures; and `losses`.

        Nothing where the widths were named.
        """
        if not limits:
            return {}
        measured = [
            {"limit": limit.asked, "allowed": limit.bound, "measured": limit.measure(self.plan), "unit": limit.unit}
            | ({"unit": f"s {limit.unit}"} if limit.is_time else {})
            for limit in limits
        ]
        return {"limits": measured, "losses": list(self.losses)}


def allocate(options: PruneOptions, source: WidthPlan, curves: Sequence[Curves] = ()) -> Allocation:
    """The target widths for a budget. The uniform allocation, the default, doesn't need the layers' `curves`.

    Raises:
        UsageError: The model is within the budget already, or no plan reaches it; the message names the limit.
    """
    if (plan := _named_widths(options, source)) is not None:
        return Allocation(plan)
    limits, units, bucket = _limits(options, source), options.units, options.bucket
    if options.allocation == "budgeted":
        units = list(units or DEFAULT_UNITS)
        drops = bool(options.drop)
        require_reachable(limits, _smallest(source, units, bucket, drops), source)
        spent, why = cheapest(source, curves, limits, units=units, bucket=bucket, drops=drops), DEARER
    else:
        uniform, why = _uniform(source, limits, units, bucket), ROUNDED
        if options.allocation != "sensitivity":
            return replace(uniform, notes=(*uniform.notes, *_uncut(uniform.plan, source, units, why)))
        # Attention is cut as in the uniform plan; the curves spread what remains for the MLP.
        cut = source.with_layers(
            replace(narrow, intermediate_size=full.intermediate_size)
            for narrow, full in zip(uniform.plan.layers, source.layers, strict=True)
        )
        spent = cheapest(cut, curves, limits, units=[MLP.name], bucket=bucket)
    notes = (reached(spent.plan, source, limits), *_uncut(spent.plan, source, units, why))
    return Allocation(spent.plan, notes, spent.losses)


def check_reachable(options: PruneOptions, source: WidthPlan) -> None:
    """Raises the `UsageError`, before any work, that `allocate` would raise after scoring."""
    if _named_widths(options, source) is not None:
        return
    limits = _limits(options, source)
    if options.allocation == "budgeted":
        units = options.units or DEFAULT_UNITS
        require_reachable(limits, _smallest(source, units, options.bucket, bool(options.drop)), source)
    else:
        _uniform(source, limits, options.units, options.bucket)


def _named_widths(budget: PruneOptions, source: WidthPlan) -> WidthPlan | None:
    """The plan of a budget that names widths; `None` for limits."""
    if budget.widths is not None:
        plan = read_widths(budget.widths, source)
    elif budget.heads is not None or budget.intermediate is not None:
        layers = [_explicit(layer, source.widest, budget.heads, budget.intermediate) for layer in source.layers]
        plan = source.with_layers(layers)
    else:
        return None
    if plan == source:
        raise UsageError("these are the model's own widths: nothing to prune", fix="Give smaller ones.")
    return plan


def _limits(budget: PruneOptions, source: WidthPlan) -> Sequence[Limit]:
    """The budget's limits, of which the source exceeds at least one."""
    limits = limits_of(budget, source)
    if all(limit.holds(source) for limit in limits):
        raise UsageError(
            "the model is within all limits already: "
            + ", ".join(f"{limit.allows()}, and it has {limit.written(limit.measure(source))}" for limit in limits),
            fix="Give less than that.",
        )
    return limits


def _uncut(plan: WidthPlan, source: WidthPlan, units: Sequence[str], why: str) -> list[str]:
    """A note for each unit that was named and that no layer lost."""
    return [
        f"no {UNITS[name].title} were cut: {why}"
        for name in units
        if all(UNITS[name].width(a) == UNITS[name].width(b) for a, b in zip(plan.layers, source.layers, strict=True))
    ]


def reached(plan: WidthPlan, source: WidthPlan, limits: Sequence[Limit]) -> str:
    """What a plan keeps of each limit, in words."""
    kept = "; ".join(
        f"{limit.allows()}, and {limit.written(limit.measure(plan))} {'is predicted' if limit.is_time else 'remain'}"
        for limit in limits
    )
    if len(limits) > 1:
        kept += f"; {max(limits, key=lambda limit: limit.measure(plan) / limit.bound).asked} binds"
    removed = costs.cut_ratio(plan, source)
    return f"{kept}: {removed:.4f} of attention and MLP removed, {costs.parameters(plan):,} parameters"


def _explicit(layer: LayerWidths, widest: LayerWidths, heads: int | None, intermediate: int | None) -> LayerWidths:
    """The layer with at most this many heads and MLP dims."""
    if heads is not None:
        if heads > widest.num_attention_heads:
            raise UsageError(
                f"--heads {heads} is more than the model's {widest.num_attention_heads}", fix="Pruning only narrows."
            )
        if layer.has_attention and heads % layer.q_per_kv:
            numbers = ", ".join(str(groups * layer.q_per_kv) for groups in range(1, widest.num_key_value_heads + 1))
            raise UsageError(
                f"--heads {heads}: {layer.q_per_kv} query heads share a KV head and go together",
                fix=f"Give one of {numbers}.",
            )
        kept = min(heads, layer.num_attention_heads)
        layer = GROUPS.narrowed(layer, kept // max(1, layer.q_per_kv))
    if intermediate is not None:
        if intermediate > widest.intermediate_size:
            raise UsageError(
                f"--intermediate {intermediate} is more than the model's {widest.intermediate_size}",
                fix="Pruning only narrows.",
            )
        layer = replace(layer, intermediate_size=min(intermediate, layer.intermediate_size))
    return layer


def _uniform(source: WidthPlan, limits: Sequence[Limit], units: Sequence[str], bucket: int) -> Allocation:
    """Cuts every layer by one share: the largest that is within all limits, to the nearest bucket of MLP dims.

    All other units are rounded up, and the MLP, whose steps are finer, makes up for it.
    """
    notes = []
    if not units:
        fewest = min(layer.num_key_value_heads for layer in source.layers if layer.has_attention)
        units = (MLP.name, GROUPS.name) if fewest >= MIN_GROUPS else (MLP.name,)
        if fewest < MIN_GROUPS and any(not limit.holds(_smallest(source, units, bucket)) for limit in limits):
            units = (MLP.name, GROUPS.name)
        elif fewest < MIN_GROUPS:
            notes.append(
                f"the MLP takes the whole cut: with {fewest} KV groups a layer, fewer than {MIN_GROUPS}, "
                "one is too much to lose (--heads and --units cut them)"
            )
    smallest = _smallest(source, units, bucket)
    require_reachable(limits, smallest, source)
    coarse = [name for name in units if name != MLP.name]
    fine = [name for name in units if name == MLP.name]
    share = min(_even_share(limit, source, smallest) for limit in limits)
    while True:
        plan = source.with_layers(_keep(layer, coarse, share) for layer in source.layers)
        if all(limit.holds(_smallest(plan, fine, bucket)) for limit in limits):
            break
        # Rounding up leaves more than the MLP can make up for.
        share -= 1 / SHARES
    if fine:
        share = min(_mlp_share(limit, plan) for limit in limits)
        exact = [layer.intermediate_size * share for layer in plan.layers]
        plan = plan.with_layers(_round_mlp(layer, dims, bucket) for layer, dims in zip(plan.layers, exact, strict=True))
        # The nearest bucket may be the one above, which only some limits allow.
        hard = [limit for limit in limits if not limit.nearest]
        while not all(limit.holds(plan) for limit in hard):
            plan = plan.with_layers(
                _round_mlp(layer, layer.intermediate_size - bucket, bucket) for layer in plan.layers
            )
        notes.append(
            f"MLP widths are multiples of {bucket}: {min(filter(None, exact)):.1f} became "
            f"{min(layer.intermediate_size for layer in plan.layers if layer.has_mlp)}"
        )
    if plan == source:
        raise UsageError(
            f"{' and '.join(limit.asked for limit in limits)} removes less than half a bucket of {bucket} MLP dims, "
            "and nothing is left to prune",
            fix="Ask for more, or give --bucket 1.",
        )
    return Allocation(plan, (reached(plan, source, limits), *notes))


def _mlp_share(limit: Limit, plan: WidthPlan) -> float:
    """The share of all MLP dims at which a plan just meets a limit, whose measure is linear in them."""
    sizes = (layer.intermediate_size for layer in plan.layers)
    halves = (max(min(1, size), round(size / 2)) for size in sizes)
    halved = (replace(layer, intermediate_size=half) for layer, half in zip(plan.layers, halves, strict=True))
    full, half = limit.measure(plan), limit.measure(plan.with_layers(halved))
    return 1 - max(0.0, full - limit.bound) / (2 * (full - half)) if full > half else 1.0


def _even_share(limit: Limit, source: WidthPlan, smallest: WidthPlan) -> float:
    """The share of everything that can be cut at which a plan would just meet a limit, without rounding."""
    cut = 1 - costs.prunable_parameters(smallest) / costs.prunable_parameters(source)
    most = limit.measure(source)
    of_prunable = (most - limit.measure(smallest)) / cut
    return 1 - max(0.0, most - limit.bound) / of_prunable if of_prunable else 1.0


def _smallest(source: WidthPlan, units: Sequence[str], bucket: int, drops: bool = False) -> WidthPlan:
    """The smallest plan that cutting these units can reach; with `drops`, one layer keeps attention, and one an MLP."""
    layers = [_keep(layer, [name for name in units if name != MLP.name], 0.0) for layer in source.layers]
    if MLP.name in units:
        layers = [_round_mlp(layer, 0, bucket) for layer in layers]
    for unit in (GROUPS, MLP) if drops else ():
        if unit.name in units:
            present = [index for index, layer in enumerate(layers) if unit.width(layer)]
            kept = min(present, key=lambda index: unit.width(layers[index]))
            layers = [layer if index == kept else unit.narrowed(layer, 0) for index, layer in enumerate(layers)]
    return source.with_layers(layers)


def _keep(layer: LayerWidths, units: Sequence[str], share: float) -> LayerWidths:
    """The layer with a share of each of these units, rounded up to the unit's step."""
    for name, unit in UNITS.items():
        if name in units:
            width = unit.width(layer)
            # The tolerance keeps 8 * (1 - 0.75) at 2, whatever the last bit is.
            steps = math.ceil(width * share / unit.step - 1e-9)
            layer = unit.narrowed(layer, min(width, max(unit.least, steps * unit.step)))
    return layer


def _round_mlp(layer: LayerWidths, dims: float, bucket: int) -> LayerWidths:
    """The layer with the multiple of `bucket` nearest to `dims`, at least one bucket, at most what it has."""
    rounded = max(1, math.floor(dims / bucket + 0.5)) * bucket
    return replace(layer, intermediate_size=min(rounded, layer.intermediate_size))


def next_dims(current: int, target: int, remaining: int) -> int:
    """Dims after the next of `remaining` shots: an even share of the rest, rounded down (TransAct, official code)."""
    return current - (current - target) // remaining


def shot_plans(source: WidthPlan, target: WidthPlan, shots: int) -> Iterator[WidthPlan]:
    """The plan after each of `shots` shots. The last one is `target`; only that one may cut inside KV groups.

    Attention shrinks in value dims of all heads. Every KV group that the remaining dims reach into is kept, so the
    next shot starts from complete groups.
    """
    plan = source
    for remaining in range(shots, 0, -1):
        layers = zip(plan.layers, target.layers, strict=True)
        plan = target if remaining == 1 else plan.with_layers(_next_layer(*both, remaining) for both in layers)
        yield plan


def _next_layer(current: LayerWidths, target: LayerWidths, remaining: int) -> LayerWidths:
    dims = next_dims(current.attention_size, target.attention_size, remaining)
    # Not fewer than the target's: its attention may be narrower because its heads are.
    groups = max(-(-dims // max(1, current.v_head_dim * current.q_per_kv)), target.num_key_value_heads)
    return replace(
        current,
        num_attention_heads=groups * current.q_per_kv,
        num_key_value_heads=groups,
        intermediate_size=next_dims(current.intermediate_size, target.intermediate_size, remaining),
    )
