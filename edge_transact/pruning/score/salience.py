"""How much the units of a layer matter: the parts that scoring methods share."""

from __future__ import annotations

import torch

from edge_transact.widths import LayerWidths

MAX_WEIGHT = 10
"""The weight of a head's largest dim against its mean dim, divided by the head dim (TransAct, official code)."""


class SquareSum:
    """The squares of each dim of an activation, summed in fp32 over all tokens added."""

    def __init__(self) -> None:
        self._squares: torch.Tensor | float = 0.0

    def add(self, activation: torch.Tensor) -> None:
        """Adds a batch: any float dtype, ``[..., size]``."""
        self._squares = self._squares + activation.flatten(end_dim=-2).float().square().sum(dim=0)

    def value(self) -> torch.Tensor:
        """fp32, ``[size]``; raises `ValueError` if nothing was added."""
        if isinstance(self._squares, float):
            raise ValueError("no activations were added")
        return self._squares

    def norm(self) -> torch.Tensor:
        """The L2 norm of each dim, fp32, ``[size]``."""
        return self.value().sqrt()


def head_salience(dims: torch.Tensor, widths: LayerWidths) -> torch.Tensor:
    """Head scores from the scores of their dims: ``mean + 10 / head_dim * max`` (TransAct, section 3.2)."""
    if not widths.has_attention:
        return dims
    heads = by_head(dims, widths)
    return heads.mean(dim=1) + MAX_WEIGHT / heads.shape[1] * heads.amax(dim=1)


def by_head(dims: torch.Tensor, widths: LayerWidths) -> torch.Tensor:
    """Dims by query head: ``[num_attention_heads * d]`` to ``[num_attention_heads, d]``, also without attention."""
    heads = widths.num_attention_heads
    return dims.view(heads, len(dims) // max(1, heads))


def of_groups(dims: torch.Tensor, widths: LayerWidths) -> torch.Tensor:
    """Sums over each KV group's query heads: ``[num_attention_heads * d]`` to ``[num_key_value_heads, d]``."""
    heads = by_head(dims, widths)
    return heads.view(widths.num_key_value_heads, widths.q_per_kv, heads.shape[1]).sum(dim=1)


def pair_energy(queries: torch.Tensor, keys: torch.Tensor, widths: LayerWidths) -> torch.Tensor:
    """How much each RoPE pair can move attention: the energy of its queries times that of its keys.

    A rotation doesn't change the length of a pair, so the projections before RoPE are enough. `queries` and `keys` are
    squares summed over tokens, ``[heads * qk_head_dim]``; the result is ``[num_key_value_heads, qk_head_dim / 2]``.
    """
    groups = widths.num_key_value_heads
    return of_pairs(of_groups(queries, widths)) * of_pairs(keys.view(groups, len(keys) // max(1, groups)))


def of_pairs(dims: torch.Tensor) -> torch.Tensor:
    """Sums over the two dims of each RoPE pair: ``[..., qk_head_dim]`` to ``[..., qk_head_dim / 2]``."""
    return dims.unflatten(-1, (2, -1)).sum(dim=-2)
