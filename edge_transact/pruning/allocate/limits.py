"""The limits of a budget: what is measured of a plan, and how much of it is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from edge_transact import costs
from edge_transact.compiler.identity import require_current
from edge_transact.costs.profile import Profile, read_profile
from edge_transact.errors import UsageError
from edge_transact.formatting import milliseconds
from edge_transact.options import tokens_and_seconds
from edge_transact.pruning.options import PruneOptions
from edge_transact.quantization import get_quantization
from edge_transact.widths import WidthPlan


@dataclass(frozen=True)
class Limit:
    """One bound of a budget.

    Attributes:
        asked: What the user asked for, in the user's terms: ``--ratio 0.3``.
        bound: The largest value of `measure` that is allowed.
        nearest: Whether a uniform plan may exceed the bound by the rounding of MLP dims to the nearest bucket.
        is_time: Whether it is a time, in seconds.
    """

    asked: str
    bound: float
    measure: Callable[[WidthPlan], float]
    unit: str
    nearest: bool = False
    is_time: bool = False

    def written(self, value: float) -> str:
        """A value of `measure`, without its unit."""
        return milliseconds(value) if self.is_time else f"{int(value):,}"

    def allows(self) -> str:
        """What the user asked for, and the bound that it is."""
        return f"{self.asked} allows {self.written(self.bound)} {self.unit}"

    def holds(self, plan: WidthPlan) -> bool:
        return self.measure(plan) <= self.bound


def require_reachable(limits: Sequence[Limit], smallest: WidthPlan, source: WidthPlan) -> None:
    """Raises a `UsageError` that names the limits that the smallest plan still exceeds, if there are any."""
    exceeded = []
    for limit in limits:
        if not limit.holds(smallest):
            has = f"the smallest model has {limit.written(limit.measure(smallest))}"
            if limit.is_time:
                has = f"the fastest model takes {limit.written(limit.measure(smallest))}, "
                has += f"with {costs.cut_ratio(smallest, source):.0%} of attention and MLP removed"
            exceeded.append(f"{limit.allows()}, and {has}")
    if exceeded:
        raise UsageError("; ".join(exceeded), fix="Allow more, or give --heads and --intermediate.")


def limits_of(options: PruneOptions, source: WidthPlan) -> list[Limit]:
    """The limits that options set for a pruned model of `source`; none where they name the widths themselves."""
    quantization, limits = get_quantization(options.quant), []
    if options.ratio is not None:
        bound = costs.prunable_parameters(source) * (1 - options.ratio)
        unit = "attention and MLP parameters"
        limits.append(Limit(f"--ratio {options.ratio:g}", bound, costs.prunable_parameters, unit, nearest=True))
    if options.target_params is not None:
        limits.append(Limit("--target-params", options.target_params, costs.parameters, "parameters", nearest=True))
    if options.max_weight_bytes is not None:
        measure = partial(costs.weight_bytes, quantization=quantization)
        limits.append(Limit("--max-weight-bytes", options.max_weight_bytes, measure, f"bytes in {options.quant}"))
    if options.max_kv_bytes_per_token is not None:
        measure = partial(costs.kv_bytes_per_token, quantization=quantization)
        unit = f"bytes a token in {options.quant}"
        limits.append(Limit("--max-kv-bytes-per-token", options.max_kv_bytes_per_token, measure, unit))
    if options.max_memory is not None:
        measure = partial(costs.memory_bytes, quantization=quantization, context=options.context)
        unit = f"bytes at a context of {options.context} in {options.quant}"
        limits.append(Limit("--max-memory", options.max_memory, measure, unit))
    if options.profile is not None:
        limits += _times(options, source, read_profile(options.profile))
    return limits


def _times(options: PruneOptions, source: WidthPlan, profile: Profile) -> list[Limit]:
    limits, contexts = [], []
    if options.max_decode is not None:
        context = options.context
        contexts.append(context)
        unit = f"for a token at a context of {context:,}"
        measure: Callable[[WidthPlan], float] = partial(profile.decode_s, context=context)
        limits.append(Limit("--max-decode", options.max_decode, measure, unit, is_time=True))
    if options.max_prefill is not None:
        tokens, seconds = tokens_and_seconds(options.max_prefill)
        contexts.append(tokens)
        measure = partial(profile.prefill_s, tokens=tokens)
        limits.append(Limit("--max-prefill", seconds, measure, f"for a prefill of {tokens:,} tokens", is_time=True))
    require_current(profile)
    profile.check(source, options.quant, contexts)
    return limits
