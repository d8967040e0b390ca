"""The limits of a budget, as numbers that plans are measured by."""

from __future__ import annotations

from functools import partial

from edge_transact import costs
from edge_transact.prune.allocate.limits import Limit
from edge_transact.prune.options import PruneOptions
from edge_transact.quantization import get_quantization
from edge_transact.widths import WidthPlan


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
    return limits
