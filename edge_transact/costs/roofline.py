"""A profile without a device: times from a bandwidth, an arithmetic rate, and what a launch costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product

from edge_transact.costs.profile import Kernel, Module, Phase, Profile, shape_of
from edge_transact.quantization import Quantization
from edge_transact.widths import WidthPlan

LAUNCHES: dict[Module, int] = {"model": 4, "mlp": 3, "qkv_proj": 2, "o_proj": 1, "rotation": 2, "attention": 2}
"""Kernels of a module: a norm before the projections, and appending to the cache beside attention itself."""


@dataclass(frozen=True)
class Rates:
    """A device as a roofline sees it."""

    bandwidth_bytes_per_s: float
    flops_per_s: float
    launch_s: float


def roofline(
    plan: WidthPlan,
    quantization: Quantization,
    rates: Rates,
    *,
    target: str,
    contexts: Sequence[int],
    prefill_chunk: int,
) -> Profile:
    """What a device of such rates takes at least: the slower of its memory and its arithmetic, for each kernel.

    Weights count once in a pass, the cache of all tokens before, and activations not at all.
    """
    scaled = quantization.bits and quantization.bits / 8 + quantization.model_dtype_bytes / quantization.group_size
    weight_bytes = scaled or quantization.model_dtype_bytes
    # Where arithmetic starts to take longer than memory, a line between other points would be too low.
    bend = round(rates.flops_per_s * weight_bytes / 2 / rates.bandwidth_bytes_per_s)
    chunks = sorted({1, min(max(bend, 1), prefill_chunk), prefill_chunk})
    passes: list[tuple[Phase, int]] = [("decode", 1), *(("prefill", chunk) for chunk in chunks)]
    kernels = []
    for phase, tokens in passes:
        for module, width, head_dim, context, weights, cached in _modules(plan, tokens, contexts):
            # The last norm and `lm_head` are for one token.
            flops = 2 * (tokens if module != "model" else 1) * weights
            nbytes = weights * weight_bytes + cached * quantization.model_dtype_bytes
            if module == "attention":
                pairs = tokens * context + tokens * (tokens + 1) // 2
                flops = 4 * pairs * width * plan.q_per_kv * head_dim
            busy_s = max(nbytes / rates.bandwidth_bytes_per_s, flops / rates.flops_per_s)
            at = {"width": width, "head_dim": head_dim, "tokens": tokens, "context": context}
            seconds = LAUNCHES[module] * rates.launch_s + busy_s
            kernels.append(Kernel(module=module, phase=phase, **at, seconds=seconds))
    return Profile(
        device={"name": "roofline", **asdict(rates)},
        target=target,
        quantization=quantization.name,
        library={},
        is_measured=False,
        prefill_chunk=prefill_chunk,
        contexts=sorted(contexts),
        model=shape_of(plan),
        widest=asdict(plan.widest),
        kernels=kernels,
    )


def _modules(plan: WidthPlan, tokens: int, contexts: Sequence[int]) -> Iterator[tuple[Module, int, int, int, int, int]]:
    """Module, width, head dim, context, weights and cached values, at both ends of lines."""
    widest, hidden = plan.widest, plan.hidden_size
    yield "model", 0, 0, 0, hidden * plan.vocab_size, 0
    for size in (0, widest.intermediate_size):
        yield "mlp", size, 0, 0, 3 * hidden * size, 0
    for heads in (0, widest.num_key_value_heads):
        columns, values = heads * plan.q_per_kv * plan.head_dim, heads * plan.head_dim
        yield "qkv_proj", columns + 2 * values, 0, 0, (columns + 2 * values) * hidden, 0
        yield "o_proj", columns, 0, 0, columns * hidden, 0
        yield "rotation", heads, 0, 0, 0, 0
        for dim, context in product((0, plan.cache_head_dim), sorted({0, *contexts})):
            yield "attention", heads, dim, context, 0, 2 * heads * dim * (context + tokens)
