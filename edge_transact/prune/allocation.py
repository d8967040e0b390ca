"""From a budget to the widths of every layer."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_transact import costs
from edge_transact.errors import UsageError, did_you_mean
from edge_transact.widths import WIDTH_FIELDS, LayerWidths, WidthPlan, read_widths

DEFAULT_BUCKET = 32
"""MLP widths are multiples of it: W4A16's group, and a work-group's worth on the GPUs of phones."""

MIN_GROUPS = 8
"""With fewer KV groups than this, one group is too coarse a step for a ratio, and the MLP takes the whole cut.

Of SmolLM2's three groups, dropping one costs more perplexity than cutting 30 % of all its parameters from the MLP.
"""

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


@dataclass(frozen=True)
class Budget:
    """How small the model shall be: exactly one of `ratio`, `target_parameters`, `widths`, or heads and MLP dims.

    Attributes:
        ratio: The share of attention and MLP parameters to remove, above 0 and below 1.
        target_parameters: Parameters of the pruned model, embeddings and all.
        widths: A file with the widths of every layer, as `read_widths` takes it.
        heads: Query heads that every layer keeps, in whole KV groups.
        intermediate: MLP dims that every layer keeps; may go with `heads`.

    Raises:
        UsageError: None or several of these, or a value out of range.
    """

    ratio: float | None = None
    target_parameters: int | None = None
    widths: Path | None = None
    heads: int | None = None
    intermediate: int | None = None

    def __post_init__(self) -> None:
        explicit = self.heads is not None or self.intermediate is not None
        given = {
            "--ratio": self.ratio is not None,
            "--target-params": self.target_parameters is not None,
            "--widths": self.widths is not None,
            "--heads/--intermediate": explicit,
        }
        names = [name for name, is_given in given.items() if is_given]
        if len(names) != 1:
            raise UsageError(
                f"several budgets at once: {', '.join(names)}" if names else "no budget: how small shall the model be?",
                fix="Give one of --ratio, --target-params, --widths, or --heads with --intermediate.",
            )
        # `not (a < b)` rather than `a >= b`, which NaN would pass.
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise UsageError(
                f"--ratio {self.ratio} is not between 0 and 1",
                fix="It is the share of attention and MLP parameters to remove: 0.3 removes 30 %.",
            )
        for name in ("target_parameters", "heads", "intermediate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                option = "--target-params" if name == "target_parameters" else f"--{name}"
                raise UsageError(f"{option} {value} is not at least 1", fix="Give a positive number.")

    def to_dict(self) -> dict[str, Any]:
        """What was asked for, without what wasn't."""
        values = {name: getattr(self, name) for name in ("ratio", "target_parameters", "heads", "intermediate")}
        values["widths"] = str(self.widths) if self.widths else None
        return {name: value for name, value in values.items() if value is not None}


ALLOCATIONS = ("uniform",)
"""How a ratio or a parameter count is spread over the layers: ``uniform``, the same share of each."""


@dataclass(frozen=True)
class Allocation:
    """The widths that meet a budget.

    Attributes:
        plan: The target.
        notes: What was decided or rounded on the way, one sentence each.
    """

    plan: WidthPlan
    notes: tuple[str, ...] = ()


def parse_parameters(text: str) -> int:
    """A number of parameters: ``1.3B``, ``900M``, ``64k`` or plain digits.

    Raises:
        UsageError: It isn't one.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMB]?)", text.strip().replace("_", "").replace(",", ""), re.IGNORECASE)
    if not match:
        raise UsageError(f"--target-params {text!r} is not a number of parameters", fix="Write 1.3B, 900M or digits.")
    return round(float(match[1]) * UNITS[match[2].upper()])


def allocate(
    budget: Budget, source: WidthPlan, *, allocation: str = "uniform", bucket: int = DEFAULT_BUCKET
) -> Allocation:
    """The target widths for a budget.

    Args:
        budget: What to reach.
        source: The widths of the model to prune.
        allocation: One of `ALLOCATIONS`, for a ratio or a parameter count.
        bucket: MLP widths computed from a ratio or a parameter count become multiples of it; 1 leaves them as they are.
            Widths that the budget names itself are kept to the number.

    Raises:
        UsageError: The budget is beyond this model: nothing to remove, or below the smallest that is left of it; or an
            unknown allocation.
    """
    if allocation not in ALLOCATIONS:
        raise UsageError(f"unknown allocation {allocation!r}", fix=did_you_mean(allocation, ALLOCATIONS))
    if bucket < 1:
        raise UsageError(f"--bucket {bucket} is not at least 1", fix="1 doesn't round; 32 is the default.")
    if budget.widths is not None:
        return _named(read_widths(budget.widths, source), source)
    prunable = costs.prunable_parameters(source)
    if budget.ratio is not None:
        return _uniform(source, prunable * (1 - budget.ratio), bucket, f"ratio {budget.ratio:g}")
    if budget.target_parameters is not None:
        total = costs.parameters(source)
        if budget.target_parameters >= total:
            raise UsageError(f"--target-params: the model has {total:,} parameters", fix="Give fewer than that.")
        wanted = prunable - (total - budget.target_parameters)
        return _uniform(source, wanted, bucket, f"{budget.target_parameters:,} parameters")
    layers = [_explicit(layer, source.widest, budget.heads, budget.intermediate) for layer in source.layers]
    return _named(source.with_layers(layers), source)


def _named(plan: WidthPlan, source: WidthPlan) -> Allocation:
    for index, (layer, before) in enumerate(zip(plan.layers, source.layers, strict=True)):
        whole_groups = replace(
            before,
            num_attention_heads=layer.num_key_value_heads * before.q_per_kv,
            num_key_value_heads=layer.num_key_value_heads,
            intermediate_size=layer.intermediate_size,
        )
        if layer != whole_groups:
            name = next(name for name in WIDTH_FIELDS if getattr(layer, name) != getattr(whole_groups, name))
            raise UsageError(
                f"layer {index}: {name} {getattr(layer, name)} cuts inside KV groups, which go whole "
                f"({getattr(whole_groups, name)})",
                fix="Cut whole KV groups (num_key_value_heads) and MLP dims (intermediate_size).",
            )
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


def _uniform(source: WidthPlan, wanted: float, bucket: int, asked: str) -> Allocation:
    """Every layer cut by one share, so that `wanted` attention and MLP parameters are left.

    KV groups are rounded up, and the MLP, whose steps are finer, makes up for it.
    """
    notes = []
    share = wanted / costs.prunable_parameters(source)
    fewest = min(layer.num_key_value_heads for layer in source.layers)
    if fewest < MIN_GROUPS:
        groups_kept = 1.0
        notes.append(
            f"the MLP takes the whole cut: with {fewest} KV groups a layer, fewer than {MIN_GROUPS}, "
            "one is too much to lose (--heads cuts them)"
        )
    else:
        groups_kept = max(share, 0.0)
    grouped = source.with_layers(_keep_groups(layer, groups_kept) for layer in source.layers)
    least = grouped.with_layers(_round_mlp(layer, 0, bucket) for layer in grouped.layers)
    if wanted < costs.prunable_parameters(least):
        ratio = math.floor(costs.cut_ratio(least, source) * 1000) / 1000
        raise UsageError(
            f"{asked} is below the smallest model: {costs.parameters(least):,} parameters, ratio {ratio:.3f}",
            fix="Ask for less, or give --heads and --intermediate.",
        )
    empty = costs.prunable_parameters(grouped) - _mlp_dims_parameters(grouped)
    mlp_share = (wanted - empty) / _mlp_dims_parameters(grouped)
    exact = [layer.intermediate_size * mlp_share for layer in grouped.layers]
    plan = grouped.with_layers(
        _round_mlp(layer, dims, bucket) for layer, dims in zip(grouped.layers, exact, strict=True)
    )
    if plan == source:
        raise UsageError(
            f"{asked} removes less than half a bucket of {bucket} MLP dims, and nothing is left to prune",
            fix="Ask for more, or give --bucket 1.",
        )
    reached = f"{costs.cut_ratio(plan, source):.4f} of attention and MLP removed, {costs.parameters(plan):,} parameters"
    narrowest = min(layer.intermediate_size for layer in plan.layers)
    notes.append(
        f"asked for {asked}, reached {reached}: MLP widths are multiples of {bucket} "
        f"({min(exact):.1f} became {narrowest})"
    )
    return Allocation(plan, tuple(notes))


def _keep_groups(layer: LayerWidths, share: float) -> LayerWidths:
    # The tolerance keeps 8 * (1 - 0.75) at 2 groups, whatever the last bit says.
    groups = max(1, math.ceil(layer.num_key_value_heads * share - 1e-9))
    return replace(layer, num_attention_heads=groups * layer.q_per_kv, num_key_value_heads=groups)


def _round_mlp(layer: LayerWidths, dims: float, bucket: int) -> LayerWidths:
    """The layer with the multiple of `bucket` nearest to `dims`, at least one bucket, at most what it has."""
    rounded = max(1, math.floor(dims / bucket + 0.5)) * bucket
    return replace(layer, intermediate_size=min(rounded, layer.intermediate_size))


def _mlp_dims_parameters(plan: WidthPlan) -> int:
    """The MLP parameters that go with its inner dims: all but `down_proj`'s bias."""
    biases = plan.num_hidden_layers * plan.hidden_size if plan.mlp_bias else 0
    return sum(costs.mlp_parameters(plan, layer) for layer in plan.layers) - biases
