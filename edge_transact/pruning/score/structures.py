"""Scores of weights, summed over the weights that are cut with each unit of a layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from edge_transact.pruning.score.salience import of_groups, of_pairs
from edge_transact.pruning.scores import LayerScores
from edge_transact.widths import LayerWidths


def scores_of_weights(
    layer: LlamaDecoderLayer, widths: LayerWidths, importance: Callable[[nn.Linear], torch.Tensor]
) -> LayerScores:
    """The scores of all units: sums over the rows and columns that surgery would cut with them; biases don't count.

    - Query head: its rows of `q_proj`, its columns of `o_proj`, a share of its group's rows of `k_proj` and `v_proj`.
    - Value dim: its row of `v_proj` and its columns of `o_proj`.
    - RoPE pair: its rows of `q_proj` and `k_proj`.
    - MLP dim: its rows of `gate_proj` and `up_proj` and its column of `down_proj`.
    """
    attention, mlp = layer.self_attn, layer.mlp

    def rows(projection: nn.Linear) -> torch.Tensor:
        return importance(projection).float().sum(dim=1)

    def columns(projection: nn.Linear) -> torch.Tensor:
        return importance(projection).float().sum(dim=0)

    def by_head(dims: torch.Tensor, heads: int) -> torch.Tensor:
        return dims.view(heads, -1)

    heads, groups = widths.num_attention_heads, widths.num_key_value_heads
    q, o = rows(attention.q_proj), columns(attention.o_proj)
    k, v = by_head(rows(attention.k_proj), groups), by_head(rows(attention.v_proj), groups)
    shared = (k.sum(dim=1) + v.sum(dim=1)) / widths.q_per_kv
    return LayerScores(
        heads=by_head(q, heads).sum(dim=1) + by_head(o, heads).sum(dim=1) + shared.repeat_interleave(widths.q_per_kv),
        v_dims=v + of_groups(o, widths),
        qk_pairs=of_pairs(of_groups(q, widths) + k),
        intermediate=rows(mlp.gate_proj) + rows(mlp.up_proj) + columns(mlp.down_proj),
    )
