"""Scores of weights, summed over the weights that are cut with each unit of a layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from edge_transact.architecture.matrices import DOWN, GATE, KEY, OUTPUT, QUERY, UP, VALUE, Matrix
from edge_transact.checkpoint.layers import DecoderLayer, find_linear
from edge_transact.pruning.score.salience import by_head, of_groups, of_pairs
from edge_transact.pruning.scores import LayerScores
from edge_transact.widths import LayerWidths


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
