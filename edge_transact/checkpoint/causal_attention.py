"""Causal attention on CPUs in blocks of queries: in bf16, two to three times as fast as torch's own.

A block's scores stay in the CPU's cache from the product with the keys to the product with the values. The backward
pass computes them again. Values may have another head dim than keys, which torch's fast kernels don't support.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "edge_causal"
"""The name for transformers' ``attn_implementation``."""

QUERIES = 96
"""The most queries of a block."""

SCORES = 5 << 17
"""The most scores of a block, over all its heads: 2.5 MiB, of which the causal half is computed."""


def causal_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of sequences without padding, for transformers' `AttentionInterface`. GPUs use torch's own.

    Query, key and value are ``[batch, heads or kv_heads, n, head dim]``, where the last dim of values may differ.
    `attention_mask` must be `None`. With a `sliding_window`, a query sees so many keys, its own included. `kwargs` are
    for torch's own.

    Returns:
        ``[batch, n, heads, v_head_dim]`` in the dtype of `value`, and no weights. Softmax and its sums are in fp32.
    """
    assert attention_mask is None and query.shape[2] == key.shape[2], "whole sequences without padding or a cache"
    if query.device.type != "cpu":
        mask, tokens = None, query.shape[2]
        if sliding_window and tokens > sliding_window:
            mask = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril_().triu_(1 - sliding_window)
        return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **kwargs)
    # Under autocast, projections are in bf16 and what RoPE has rotated is in fp32.
    window = sliding_window or query.shape[2]
    return _Blockwise.apply(query.to(value.dtype), key.to(value.dtype), value, scaling, window), None


AttentionInterface.register(NAME, causal_attention)


class _Blockwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, window: int
    ) -> torch.Tensor:
        batch, heads, tokens, _ = query.shape
        key = key.contiguous()  # otherwise torch's batched product copies the keys of each block
        output = query.new_empty(batch, tokens, heads, value.shape[-1])
        for each, groups, of_groups, start, end in _blocks(query, key):
            seen = slice(max(0, start + 1 - window), end)
            _, weights = _weights(query[each, of_groups, start:end], key[each, groups, seen], scaling, window)
            attended = torch.bmm(weights.to(value.dtype), value[each, groups, seen])
            output[each, start:end, of_groups] = attended.view(-1, end - start, value.shape[-1]).transpose(0, 1)
        ctx.save_for_backward(query, key, value, output)
        ctx.scaling, ctx.window = scaling, window
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, output = ctx.saved_tensors
        by_query = torch.empty_like(query)
        by_key, by_value = (torch.zeros_like(t, dtype=torch.float32) for t in (key, value))
        # The softmax subtracts from the gradient of a query's weights its mean under these weights.
        means = (gradient.float() * output).sum(dim=-1).transpose(1, 2)
        for each, groups, of_groups, start, end in _blocks(query, key):
            seen = slice(max(0, start + 1 - ctx.window), end)
            keys, values = key[each, groups, seen], value[each, groups, seen]
            queries, weights = _weights(query[each, of_groups, start:end], keys, ctx.scaling, ctx.window)
            by_output = gradient[each, start:end, of_groups].transpose(0, 1).reshape(*queries.shape[:2], -1)
            by_value[each, groups, seen] += torch.bmm(weights.to(value.dtype).transpose(1, 2), by_output)
            by_weights = torch.bmm(by_output, values.transpose(1, 2)).float()
            by_weights -= means[each, of_groups, start:end].reshape(*queries.shape[:2], 1)
            by_scores = by_weights.mul_(weights).mul_(ctx.scaling).to(query.dtype)
            by_query[each, of_groups, start:end] = torch.bmm(by_scores, keys).view(-1, end - start, query.shape[-1])
            by_key[each, groups, seen] += torch.bmm(by_scores.transpose(1, 2), queries)
        return by_query, by_key.to(key.dtype), by_value.to(value.dtype), None, None


def _blocks(query: torch.Tensor, key: torch.Tensor) -> Iterator[tuple[int, slice, slice, int, int]]:
    """The blocks: sequence, KV heads, the query heads that share them, first query, and the query after the last."""
    batch, heads, tokens, _ = query.shape
    kv_heads = key.shape[1]
    per_group = heads // kv_heads
    at_once = max(1, SCORES // (per_group * min(QUERIES, tokens) * tokens))
    for each in range(batch):
        for first in range(0, kv_heads, at_once):
            last = min(first + at_once, kv_heads)
            for start in range(0, tokens, QUERIES):
                of_groups = slice(first * per_group, last * per_group)
                yield each, slice(first, last), of_groups, start, min(start + QUERIES, tokens)


def _weights(query: torch.Tensor, keys: torch.Tensor, scaling: float, window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The queries ``[heads, n, d]``, the last of m positions, by KV head; their weights, ``[kv_heads, rows, m]``.

    A query has no weights beyond its own position, and none for positions before the `window` that ends there.
    """
    heads, queries, d = query.shape
    together = query.reshape(len(keys), -1, d)
    scores = torch.bmm(together, keys.transpose(1, 2)).float().mul_(scaling)
    later = scores.new_full((queries, queries), -math.inf).triu_(1)
    by_head = scores.view(heads, queries, -1)
    by_head[..., -queries:] += later
    if (m := by_head.shape[-1]) > window:
        by_head += scores.new_full((queries, m), -math.inf).tril_(m - queries - window)
    return together, scores.softmax(dim=-1)
