"""How much the units of a layer matter: the parts that scoring methods share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from edge_transact.architecture.matrices import DOWN, GATE, KEY, OUTPUT, QUERY, UP, VALUE, Matrix
from edge_transact.checkpoint.layers import DecoderLayer, find_linear
from edge_transact.pruning.scores import LayerScores
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


def scores_of_weights(
    layer: DecoderLayer, widths: LayerWidths, importance: Callable[[nn.Linear], torch.Tensor]
) -> LayerScores:
    """The scores of all units: sums over the rows and columns that surgery would cut with them; biases don't count.

    - Query head: its rows of q, its columns of attention's output, a share of its group's rows of k and v.
    - Value dim: its row of v and its columns of attention's output.
    - RoPE pair: its rows of q and k.
    - MLP dim: its rows of gate and up and its column of down.
    """

    def summed(matrix: Matrix, dim: int) -> torch.Tensor:
        found = find_linear(layer, matrix)
        return torch.empty(0) if found is None else importance(found).float().sum(dim=dim)

    rows, columns, groups = partial(summed, dim=1), partial(summed, dim=0), widths.num_key_value_heads
    q, o = rows(QUERY), columns(OUTPUT)
    k, v = rows(KEY).view(groups, widths.qk_head_dim), rows(VALUE).view(groups, widths.v_head_dim)
    shared = (k.sum(dim=1) + v.sum(dim=1)) / max(1, widths.q_per_kv)
    of_heads = by_head(q, widths).sum(dim=1) + by_head(o, widths).sum(dim=1)
    return LayerScores(
        heads=of_heads + shared.repeat_interleave(widths.q_per_kv),
        v_dims=v + of_groups(o, widths),
        qk_pairs=of_pairs(of_groups(q, widths) + k),
        intermediate=rows(GATE) + rows(UP) + columns(DOWN),
    )
