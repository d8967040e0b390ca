"""What a plan costs: parameters, weight bytes, KV bytes, FLOPs. The only place with these formulas.

A multiply-accumulate is two FLOPs. FLOPs count the matrix products (projections, attention scores and values,
`lm_head`); norms, RoPE, softmax and activations are left out, as in the paper's Figure 3.
"""

from __future__ import annotations

import math
from dataclasses import replace

from edge_transact.quantization import GROUP_SIZE, WORDS_PER_GROUP, Quantization
from edge_transact.widths import LayerWidths, WidthPlan

DEFAULT_CONTEXT = 2048
"""Tokens of a sequence that a build, and what is counted for it, has in mind unless told otherwise."""

DEFAULT_PREFILL_CHUNK = 128
"""Tokens of one prefill call, likewise."""


ATTENTION_CALL_PARAMETERS = 450_000
"""W4 weights that are read in the time of an attention call, its arithmetic left out.

Measured on two threads of a Xeon, SmolLM2 pruned with 83 calls a token and with 30: 5.4 us a call, at 48 GB/s. On a
phone's GPU, where a call is several launches, it is more.
"""


def attention_parameters(plan: WidthPlan, layer: LayerWidths) -> int:
    """Parameters of one layer's q, k, v and o projections."""
    qk = (layer.num_attention_heads + layer.num_key_value_heads) * layer.qk_head_dim
    v = layer.num_key_value_heads * layer.v_head_dim
    biases = (qk + v + plan.hidden_size) if plan.attention_bias else 0
    return (qk + v + layer.attention_size) * plan.hidden_size + biases


def mlp_parameters(plan: WidthPlan, layer: LayerWidths) -> int:
    """Parameters of one layer's gate, up and down projections."""
    biases = (2 * layer.intermediate_size + plan.hidden_size) if plan.mlp_bias else 0
    return 3 * layer.intermediate_size * plan.hidden_size + biases


def prunable_parameters(plan: WidthPlan) -> int:
    """Parameters of attention and MLP in all layers: what a ratio is a share of."""
    return sum(attention_parameters(plan, layer) + mlp_parameters(plan, layer) for layer in plan.layers)


def parameters(plan: WidthPlan) -> int:
    """All parameters; a tied `lm_head` counts once."""
    embeddings = plan.vocab_size * plan.hidden_size * (1 if plan.tie_word_embeddings else 2)
    norms = (2 * plan.num_hidden_layers + 1) * plan.hidden_size
    return prunable_parameters(plan) + embeddings + norms


def cut_ratio(plan: WidthPlan, source: WidthPlan) -> float:
    """The share of the source's attention and MLP parameters that the plan leaves out."""
    return 1 - prunable_parameters(plan) / prunable_parameters(source)


def weight_bytes(plan: WidthPlan, quantization: Quantization) -> int:
    """Bytes of all weights as stored in the parameter shards (fp32 tensors are stored as bf16)."""
    stored = quantization.stored_dtype_bytes

    def matrix(inputs: int, outputs: int) -> int:
        if quantization.bits is None:
            return inputs * outputs * stored
        groups = math.ceil(inputs / GROUP_SIZE)
        return outputs * groups * (WORDS_PER_GROUP * 4 + stored)

    hidden = plan.hidden_size
    total = matrix(hidden, plan.vocab_size) * (1 if plan.tie_word_embeddings else 2)
    total += (2 * plan.num_hidden_layers + 1) * hidden * stored
    for layer in plan.layers:
        qk = (layer.num_attention_heads + layer.num_key_value_heads) * layer.qk_head_dim
        qkv = qk + layer.num_key_value_heads * layer.v_head_dim
        total += matrix(hidden, qkv) + matrix(layer.attention_size, hidden)
        total += matrix(hidden, 2 * layer.intermediate_size) + matrix(layer.intermediate_size, hidden)
        total += (qkv + hidden) * stored if plan.attention_bias else 0
        total += (2 * layer.intermediate_size + hidden) * stored if plan.mlp_bias else 0
        if plan.has_rope_pairs(layer):
            total += 4 * layer.num_key_value_heads * layer.qk_head_dim // 2
    return total


def kv_bytes_per_token(plan: WidthPlan, quantization: Quantization) -> int:
    """Bytes that one token takes in the paged KV cache, over all its virtual layers, head dims padded to one."""
    heads = plan.num_virtual_layers * plan.virtual_num_key_value_heads
    return 2 * heads * plan.cache_head_dim * quantization.model_dtype_bytes


KV_PAGE_TOKENS = 16
"""Tokens of one page of the paged KV cache, as MLC's engine creates it."""


def kv_cache_bytes(plan: WidthPlan, quantization: Quantization, context: int, max_batch: int = 1) -> int:
    """Bytes that the paged KV cache allocates for sequences of `context` tokens: whole pages, and a spare one.

    Source: `PagedAttentionKVCacheObj` in TVM's ``runtime/vm/paged_kv_cache.cc``.
    """
    pages = math.ceil(max_batch * context / KV_PAGE_TOKENS) + 1
    return pages * KV_PAGE_TOKENS * kv_bytes_per_token(plan, quantization)


def kv_padding_bytes_per_token(plan: WidthPlan, quantization: Quantization) -> int:
    """The part of `kv_bytes_per_token` that is padding, because the cache has one head dim."""
    used = sum(layer.num_key_value_heads * (layer.qk_head_dim + layer.v_head_dim) for layer in plan.layers)
    return kv_bytes_per_token(plan, quantization) - used * quantization.model_dtype_bytes


def workspace_bytes(plan: WidthPlan, quantization: Quantization, prefill_chunk: int, max_batch: int = 1) -> int:
    """An estimate of the activations that are alive at once: the widest layer's, for a chunk of prefill, and logits.

    What a library really plans is in its ``_metadata``, as ``memory_usage``.
    """
    widest = max(
        max(
            (layer.num_attention_heads + layer.num_key_value_heads) * layer.qk_head_dim
            + layer.num_key_value_heads * layer.v_head_dim
            + layer.attention_size,
            3 * layer.intermediate_size,
        )
        for layer in plan.layers
    )
    activations = prefill_chunk * (2 * plan.hidden_size + widest) * quantization.model_dtype_bytes
    return activations + 2 * max_batch * plan.vocab_size * 4


def memory_bytes(
    plan: WidthPlan,
    quantization: Quantization,
    context: int,
    prefill_chunk: int = DEFAULT_PREFILL_CHUNK,
    max_batch: int = 1,
) -> int:
    """Bytes that a model takes on a device: weights, the KV cache of `context` tokens, and workspace."""
    workspace = workspace_bytes(plan, quantization, min(prefill_chunk, context), max_batch)
    return weight_bytes(plan, quantization) + kv_cache_bytes(plan, quantization, context, max_batch) + workspace


def layer_matrix_parameters(plan: WidthPlan) -> int:
    """Weights that every token is multiplied with inside the layers (no biases, no norms)."""
    total = 0
    for layer in plan.layers:
        qk = (layer.num_attention_heads + layer.num_key_value_heads) * layer.qk_head_dim
        total += (qk + layer.num_key_value_heads * layer.v_head_dim + layer.attention_size) * plan.hidden_size
        total += 3 * layer.intermediate_size * plan.hidden_size
    return total


def decode_flops(plan: WidthPlan, context: int) -> int:
    """FLOPs of one decoded token that attends to `context` tokens, itself among them, with its logits."""
    attention = sum(
        2 * context * layer.num_attention_heads * (layer.qk_head_dim + layer.v_head_dim) for layer in plan.layers
    )
    return 2 * layer_matrix_parameters(plan) + attention + 2 * plan.hidden_size * plan.vocab_size


def prefill_flops(plan: WidthPlan, tokens: int, past: int = 0) -> int:
    """FLOPs of a causal prefill of `tokens` after `past` cached ones, with the logits of the last token only."""
    pairs = tokens * past + tokens * (tokens + 1) // 2
    attention = sum(
        2 * pairs * layer.num_attention_heads * (layer.qk_head_dim + layer.v_head_dim) for layer in plan.layers
    )
    return 2 * tokens * layer_matrix_parameters(plan) + attention + 2 * plan.hidden_size * plan.vocab_size


def decode_read_bytes(plan: WidthPlan, quantization: Quantization, context: int) -> int:
    """Bytes that one decoded token must read: every weight once (of an untied embedding one row, which is left out) and
    the KV cache of `context` tokens."""
    tied = replace(plan, tie_word_embeddings=True)
    return weight_bytes(tied, quantization) + context * kv_bytes_per_token(plan, quantization)
