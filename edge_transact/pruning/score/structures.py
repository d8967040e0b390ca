"""Scores of weights, summed over the weights that are cut with each unit of a layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from edge_transact.architecture.matrices import DOWN, GATE, KEY, OUTPUT, QUERY, UP, VALUE, Matrix
from edge_transact.checkpoint.layers import DecoderLayer, linear
from edge_transact.pruning.score.salience import of_groups, of_pairs
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

    def rows(matrix: Matrix) -> torch.Tensor:
        return importance(linear(layer, matrix)).float().sum(dim=1)

    def columns(matrix: Matrix) -> torch.Tensor:
        return importance(linear(layer, matrix)).float().sum(dim=0)

    heads, groups = widths.num_attention_heads, widths.num_key_value_heads
    q, o = rows(QUERY), columns(OUTPUT)
    k, v = rows(KEY).view(groups, -1), rows(VALUE).view(groups, -1)
    shared = (k.sum(dim=1) + v.sum(dim=1)) / widths.q_per_kv
    return LayerScores(
        heads=q.view(heads, -1).sum(dim=1) + o.view(heads, -1).sum(dim=1) + shared.repeat_interleave(widths.q_per_kv),
        v_dims=v + of_groups(o, widths),
        qk_pairs=of_pairs(of_groups(q, widths) + k),
        intermediate=rows(GATE) + rows(UP) + columns(DOWN),
    )
