"""How widths shrink over several shots, each of which scores the model that the previous one left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edge_transact.widths import LayerWidths, WidthPlan


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
