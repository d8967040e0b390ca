"""From a budget to the widths of every layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from edge_transact import costs
from edge_transact.errors import UsageError, did_you_mean
from edge_transact.prune.allocate.budget import limits_of
from edge_transact.prune.allocate.limits import Limit, binding
from edge_transact.prune.allocate.pricing import DEFAULT_UNITS, HEAD_DIM_STEP, UNITS, Curves, cheapest
from edge_transact.prune.options import ALLOCATIONS, DEFAULTS, PruneOptions
from edge_transact.widths import CACHE_HEAD_DIM_MULTIPLE, LayerWidths, WidthPlan, read_widths

DEFAULT_BUCKET = DEFAULTS.bucket
"""MLP widths are multiples of it: W4A16's group, and a work-group's worth on the GPUs of phones."""

SHARES = 64
"""Steps in which a share is lowered."""

MIN_GROUPS = 8
"""With fewer KV groups than this, one group is too coarse a step for a ratio, and the MLP takes the whole cut.

Of SmolLM2's three groups, dropping one costs more perplexity than cutting 30 % of all its parameters from the MLP.
"""


@dataclass(frozen=True)
class Allocation:
    """The widths that meet a budget.

    Attributes:
        plan: The target.
        notes: What was decided or rounded on the way, one sentence each.
    """

    plan: WidthPlan
    notes: tuple[str, ...] = ()


def allocate(
    budget: PruneOptions,
    source: WidthPlan,
    *,
    allocation: str = "uniform",
    units: Sequence[str] = (),
    bucket: int = DEFAULT_BUCKET,
    curves: Sequence[Curves] = (),
) -> Allocation:
    """The target widths for a budget.

    Args:
        budget: What to reach.
        source: The widths of the model to prune.
        allocation: One of `ALLOCATIONS`, for limits. Widths that the budget names itself are kept to the number.
        units: What may be cut, names of `pricing.UNITS`; empty for the allocation's own choice.
        bucket: MLP widths computed from limits become multiples of it; 1 leaves them as they are.
        curves: For all allocations but ``uniform``, the loss of each layer by width, as `pricing.UNITS` names it.

    Raises:
        UsageError: The budget is beyond this model: nothing to remove, or below the smallest that is left of it, with
            the limit that binds.
    """
    if budget.widths is not None:
        return _named(read_widths(budget.widths, source), source)
    if budget.heads is not None or budget.intermediate is not None:
        layers = [_explicit(layer, source.widest, budget.heads, budget.intermediate) for layer in source.layers]
        return _named(source.with_layers(layers), source)
    limits = limits_of(budget, source)
    if all(limit.holds(source) for limit in limits):
        raise UsageError(
            "the model is within all limits already: " + ", ".join(_has(limit, source) for limit in limits),
            fix="Give less than that.",
        )
    if allocation == "uniform":
        return _uniform(source, limits, units, bucket)
    if allocation == "sensitivity":
        # Attention is cut as the uniform plan cuts it; what the MLP must give is spread by its curves.
        source_of_mlp = _attention_of(_uniform(source, limits, units, bucket).plan, source)
        spent = cheapest(source_of_mlp, curves, limits, units=["mlp"], bucket=bucket)
    else:
        spent = cheapest(source, curves, limits, units=units or DEFAULT_UNITS, bucket=bucket)
    reached = _reached(spent.plan, source, limits)
    return Allocation(spent.plan, (reached, f"predicted loss {spent.loss:.3f} nats a token"))


def check_choices(budget: PruneOptions, source: WidthPlan, allocation: str, units: Sequence[str], bucket: int) -> None:
    """Refuses before any work what `allocate` would refuse after it.

    Raises:
        UsageError: An unknown allocation or unit, a bucket below 1, or a budget that is beyond this model.
    """
    if allocation not in ALLOCATIONS:
        raise UsageError(f"unknown allocation {allocation!r}", fix=did_you_mean(allocation, ALLOCATIONS))
    for unit in units:
        if unit not in UNITS:
            raise UsageError(f"unknown unit {unit!r}", fix=did_you_mean(unit, tuple(UNITS)))
    if bucket < 1:
        raise UsageError(f"--bucket {bucket} is not at least 1", fix="1 doesn't round; 32 is the default.")
    if budget.heads is not None or budget.intermediate is not None or budget.widths is not None:
        allocate(budget, source)
        return
    # Curves that are all alike: not which plan, but whether there is one.
    flat = [{name: torch.zeros(_largest(layer) + 1) for name in UNITS.values()} for layer in source.layers]
    allocate(budget, source, allocation=allocation, units=units, bucket=bucket, curves=flat)


def _largest(layer: LayerWidths) -> int:
    return max(layer.intermediate_size, layer.num_key_value_heads, layer.v_head_dim, layer.qk_head_dim)


def _has(limit: Limit, plan: WidthPlan) -> str:
    return f"{limit.asked} allows {int(limit.bound):,} {limit.unit}, and it has {int(limit.measure(plan)):,}"


def _reached(plan: WidthPlan, source: WidthPlan, limits: Sequence[Limit]) -> str:
    asked = ", ".join(f"{limit.asked} ({int(limit.bound):,} {limit.unit})" for limit in limits)
    return (
        f"asked for {asked}; reached {', '.join(f'{int(limit.measure(plan)):,}' for limit in limits)}: "
        f"{costs.cut_ratio(plan, source):.4f} of attention and MLP removed, {costs.parameters(plan):,} parameters"
    )


def _attention_of(plan: WidthPlan, source: WidthPlan) -> WidthPlan:
    """The source with the attention of a plan."""
    return source.with_layers(
        replace(cut, intermediate_size=whole.intermediate_size)
        for cut, whole in zip(plan.layers, source.layers, strict=True)
    )


def _named(plan: WidthPlan, source: WidthPlan) -> Allocation:
    if plan == source:
        raise UsageError("these are the model's own widths: nothing to prune", fix="Give smaller ones.")
    return Allocation(plan)


def _explicit(layer: LayerWidths, widest: LayerWidths, heads: int | None, intermediate: int | None) -> LayerWidths:
    """The layer with at most so many heads and MLP dims."""
    if heads is not None:
        if heads > widest.num_attention_heads:
            raise UsageError(
                f"--heads {heads} is more than the model's {widest.num_attention_heads}", fix="Pruning only narrows."
            )
        if heads % layer.q_per_kv:
            numbers = ", ".join(str(groups * layer.q_per_kv) for groups in range(1, widest.num_key_value_heads + 1))
            raise UsageError(
                f"--heads {heads}: {layer.q_per_kv} query heads share a KV head and go together",
                fix=f"Give one of {numbers}.",
            )
        kept = min(heads, layer.num_attention_heads)
        layer = replace(layer, num_attention_heads=kept, num_key_value_heads=kept // layer.q_per_kv)
    if intermediate is not None:
        if intermediate > widest.intermediate_size:
            raise UsageError(
                f"--intermediate {intermediate} is more than the model's {widest.intermediate_size}",
                fix="Pruning only narrows.",
            )
        layer = replace(layer, intermediate_size=min(intermediate, layer.intermediate_size))
    return layer


def _uniform(source: WidthPlan, limits: Sequence[Limit], units: Sequence[str], bucket: int) -> Allocation:
    """Every layer cut by one share, the largest that is within all limits, to the nearest bucket of MLP dims.

    KV groups and dims inside heads are rounded up, and the MLP, whose steps are finer, makes up for it.
    """
    notes = []
    if not units:
        fewest = min(layer.num_key_value_heads for layer in source.layers)
        units = ("mlp", "groups") if fewest >= MIN_GROUPS else ("mlp",)
        if fewest < MIN_GROUPS and any(not limit.holds(_smallest(source, units, bucket)) for limit in limits):
            units = ("mlp", "groups")
        elif fewest < MIN_GROUPS:
            notes.append(
                f"the MLP takes the whole cut: with {fewest} KV groups a layer, fewer than {MIN_GROUPS}, "
                "one is too much to lose (--heads and --units cut them)"
            )
    smallest = _smallest(source, units, bucket)
    if not all(limit.holds(smallest) for limit in limits):
        raise binding(limits, smallest)
    coarse = [unit for unit in units if unit != "mlp"]
    share = min(_even_share(limit, source, smallest) for limit in limits)
    while True:
        plan = source.with_layers(_keep(layer, coarse, share) for layer in source.layers)
        if all(limit.holds(_smallest(plan, ["mlp"] if "mlp" in units else [], bucket)) for limit in limits):
            break
        # Rounded up, it leaves more than the MLP can make up for.
        share -= 1 / SHARES
    if "mlp" in units:
        share = min(_mlp_share(limit, plan) for limit in limits)
        exact = [layer.intermediate_size * share for layer in plan.layers]
        plan = plan.with_layers(_round_mlp(layer, dims, bucket) for layer, dims in zip(plan.layers, exact, strict=True))
        # The nearest bucket may be the one above, which only a share of the model may exceed.
        hard = [limit for limit in limits if not limit.nearest]
        while not all(limit.holds(plan) for limit in hard):
            plan = plan.with_layers(
                _round_mlp(layer, layer.intermediate_size - bucket, bucket) for layer in plan.layers
            )
        notes.append(
            f"MLP widths are multiples of {bucket}: {min(exact):.1f} became "
            f"{min(layer.intermediate_size for layer in plan.layers)}"
        )
    if plan == source:
        raise UsageError(
            f"{' and '.join(limit.asked for limit in limits)} removes less than half a bucket of {bucket} MLP dims, "
            "and nothing is left to prune",
            fix="Ask for more, or give --bucket 1.",
        )
    return Allocation(plan, (_reached(plan, source, limits), *notes))


def _mlp_share(limit: Limit, plan: WidthPlan) -> float:
    """The share of all MLP dims at which a plan is just within a limit, which grows with them in a straight line."""
    whole, half = limit.measure(plan), limit.measure(_with_mlp(plan, 0.5))
    return 1 - max(0.0, whole - limit.bound) / (2 * (whole - half)) if whole > half else 1.0


def _with_mlp(plan: WidthPlan, share: float) -> WidthPlan:
    return plan.with_layers(
        replace(layer, intermediate_size=max(1, round(layer.intermediate_size * share))) for layer in plan.layers
    )


def _even_share(limit: Limit, source: WidthPlan, smallest: WidthPlan) -> float:
    """The share of everything that may be cut at which a plan would be just within a limit, without any rounding."""
    cut = 1 - costs.prunable_parameters(smallest) / costs.prunable_parameters(source)
    most = limit.measure(source)
    of_prunable = (most - limit.measure(smallest)) / cut
    return 1 - max(0.0, most - limit.bound) / of_prunable if of_prunable else 1.0


def _smallest(source: WidthPlan, units: Sequence[str], bucket: int) -> WidthPlan:
    layers = [_keep(layer, units, 0.0) for layer in source.layers]
    if "mlp" in units:
        layers = [_round_mlp(layer, 0, bucket) for layer in layers]
    return source.with_layers(layers)


def _keep(layer: LayerWidths, units: Sequence[str], share: float) -> LayerWidths:
    """The layer with a share of its groups, of query heads inside them and of dims inside heads, rounded up."""
    # The tolerance keeps 8 * (1 - 0.75) at 2 groups, whatever the last bit says.
    if "groups" in units:
        groups = max(1, math.ceil(layer.num_key_value_heads * share - 1e-9))
        layer = replace(layer, num_attention_heads=groups * layer.q_per_kv, num_key_value_heads=groups)
    if "queries" in units:
        queries = max(1, math.ceil(layer.q_per_kv * share - 1e-9))
        layer = replace(layer, num_attention_heads=queries * layer.num_key_value_heads)
    for unit, field in (("values", "v_head_dim"), ("queries-keys", "qk_head_dim")):
        if unit in units:
            width = getattr(layer, field)
            steps = math.ceil(width * share / HEAD_DIM_STEP - 1e-9)
            layer = replace(layer, **{field: min(width, max(CACHE_HEAD_DIM_MULTIPLE, steps * HEAD_DIM_STEP))})
    return layer


def _round_mlp(layer: LayerWidths, dims: float, bucket: int) -> LayerWidths:
    """The layer with the multiple of `bucket` nearest to `dims`, at least one bucket, at most what it has."""
    rounded = max(1, math.floor(dims / bucket + 0.5)) * bucket
    return replace(layer, intermediate_size=min(rounded, layer.intermediate_size))
