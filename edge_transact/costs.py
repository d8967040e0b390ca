"""The costs of a plan: parameters, weight bytes, KV bytes, FLOPs. The only place with these formulas.

A multiply-accumulate is two FLOPs. Only matrix products count (projections, attention scores and values, `lm_head`).
Norms, RoPE, softmax and activations don't, as in the paper's Figure 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge_transact.formatting import megabytes
from edge_transact.quantization import GROUP_SIZE, WORDS_PER_GROUP, Quantization
from edge_transact.widths import LayerWidths, WidthPlan

DEFAULT_CONTEXT = 2048
"""The context window of a build, in tokens, unless the user sets another; memory is counted for it, too."""

DEFAULT_PREFILL_CHUNK = 128
"""The most tokens of one prefill call, unless the user sets another number; memory is counted for it, too."""

HOST_PREFILL_CHUNK = 256
"""The same where libraries are for a host alone, which has the memory: each call unpacks all weights once."""

ATTENTION_CALL_PARAMETERS = 450_000
"""W4 weights that can be read in the time that an attention call costs on top of its arithmetic.

Measured on two threads of a Xeon, with SmolLM2 pruned to 83 and to 30 calls per token: 5.4 us per call, at 48 GB/s. It
is more on a phone's GPU, where a call is several launches.
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
    """Parameters of attention and MLP in all layers. A parameter ratio is a share of them."""
    return sum(attention_parameters(plan, layer) + mlp_parameters(plan, layer) for layer in plan.layers)


def parameters(plan: WidthPlan) -> int:
    """All parameters; a tied `lm_head` isn't counted again."""
    embeddings = plan.vocab_size * plan.hidden_size * (1 if plan.tie_word_embeddings else 2)
    norms = (2 * plan.num_hidden_layers + 1) * plan.hidden_size
    return prunable_parameters(plan) + embeddings + norms


def cut_ratio(plan: WidthPlan, source: WidthPlan) -> float:
    """The share of the source's attention and MLP parameters that the plan cuts."""
    return 1 - prunable_parameters(plan) / prunable_parameters(source)


def weight_bytes(plan: WidthPlan, quantization: Quantization) -> int:
    """Bytes of all weights in the parameter shards, where fp32 tensors are stored as bf16."""
    return _weight_bytes(plan, quantization, quantization.stored_dtype_bytes)


def loaded_weight_bytes(plan: WidthPlan, quantization: Quantization) -> int:
    """Bytes of all weights in a device's memory, where fp32 tensors are fp32."""
    return _weight_bytes(plan, quantization, quantization.model_dtype_bytes)


def _weight_bytes(plan: WidthPlan, quantization: Quantization, value_bytes: int) -> int:
    def matrix(inputs: int, outputs: int) -> int:
        if quantization.bits is None:
            return inputs * outputs * value_bytes
        groups = math.ceil(inputs / GROUP_SIZE)
        return outputs * groups * (WORDS_PER_GROUP * 4 + value_bytes)

    hidden = plan.hidden_size
    total = matrix(hidden, plan.vocab_size) * (1 if plan.tie_word_embeddings else 2)
    total += (2 * plan.num_hidden_layers + 1) * hidden * value_bytes
    for layer in plan.layers:
        qk = (layer.num_attention_heads + layer.num_key_value_heads) * layer.qk_head_dim
        qkv = qk + layer.num_key_value_heads * layer.v_head_dim
        total += matrix(hidden, qkv) + matrix(layer.attention_size, hidden)
        total += matrix(hidden, 2 * layer.intermediate_size) + matrix(layer.intermediate_size, hidden)
        total += (qkv + hidden) * value_bytes if plan.attention_bias else 0
        total += (2 * layer.intermediate_size + hidden) * value_bytes if plan.mlp_bias else 0
        if plan.has_rope_pairs(layer):
            total += 4 * layer.num_key_value_heads * layer.qk_head_dim // 2
    return total


def kv_bytes_per_token(plan: WidthPlan, quantization: Quantization) -> int:
    """Bytes of one token in the paged KV cache, over all virtual KV layers, with head dims padded to the cache's."""
    heads = plan.num_virtual_layers * plan.virtual_num_key_value_heads
    return 2 * heads * plan.cache_head_dim * quantization.model_dtype_bytes


PAGE_SIZE = 16
"""Tokens of a page of the paged KV cache, as MLC's engine creates it (``kv_cache_page_size`` of its `EngineConfig`).

Our CPU kernels, the host's runtime and ``android_bench/src/model.cc`` create pages of this size.
"""


def kv_cache_bytes(plan: WidthPlan, quantization: Quantization, context: int, max_batch: int = 1) -> int:
    """Bytes that the paged KV cache allocates for `max_batch` sequences of `context` tokens: full pages and one more.

    Source: `PagedAttentionKVCacheObj` in TVM's ``runtime/vm/paged_kv_cache.cc``.
    """
    pages = math.ceil(max_batch * context / PAGE_SIZE) + 1
    return pages * PAGE_SIZE * kv_bytes_per_token(plan, quantization)


ENGINE_FREE_TOKENS = 160
"""Tokens of the KV cache that MLC's engine wants free for each running sequence at every step: ten pages.

Its cache needs that much more than the context window (``max_total_sequence_length`` of its `EngineConfig`). Otherwise
the engine prefills a sequence near the window's end again for each token, and aborts at the end itself
(`CheckMemForJumpForward` in ``cpp/serve/engine_actions/batch_jumpforward.cc``).
"""


def engine_kv_bytes(plan: WidthPlan, quantization: Quantization, context: int, max_batch: int = 1) -> int:
    """Bytes of the KV cache of MLC's engine, when it is started with `ENGINE_FREE_TOKENS` beyond each context."""
    return kv_cache_bytes(plan, quantization, context + ENGINE_FREE_TOKENS, max_batch)


def largest_context(nbytes: int, bytes_per_token: int, max_batch: int = 1) -> int:
    """The most tokens of context whose `engine_kv_bytes` are at most `nbytes`; less than 1 if none are.

    Args:
        nbytes: Bytes for the cache, or for some of its layers.
        bytes_per_token: What a token takes in them.
        max_batch: The number of sequences.
    """
    pages = nbytes // (PAGE_SIZE * bytes_per_token) - 1
    return pages * PAGE_SIZE // max_batch - ENGINE_FREE_TOKENS


def kv_padding_bytes_per_token(plan: WidthPlan, quantization: Quantization) -> int:
    """The part of `kv_bytes_per_token` that is padding: the cache has one head dim for all layers."""
    used = sum(layer.num_key_value_heads * (layer.qk_head_dim + layer.v_head_dim) for layer in plan.layers)
    return kv_bytes_per_token(plan, quantization) - used * quantization.model_dtype_bytes


def workspace_bytes(plan: WidthPlan, quantization: Quantization, prefill_chunk: int, max_batch: int = 1) -> int:
    """An estimate of the live activations: those of the widest layer for one prefill chunk, and logits.

    The KV cache keeps q, k, v and the output of a chunk, and two log-sum-exps (`PagedAttentionKVCacheObj` in TVM's
    ``runtime/vm/paged_kv_cache.cc``). Logits are those of decode, and softmax has three more tensors of their size. The
    exact figure of a built library's functions is ``memory_usage`` in its ``_metadata``.
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
    kv_heads = plan.virtual_num_key_value_heads
    q_heads = plan.q_per_kv * kv_heads
    in_cache = 2 * (q_heads + kv_heads) * plan.cache_head_dim
    activations = prefill_chunk * (2 * plan.hidden_size + widest + in_cache) * quantization.model_dtype_bytes
    return activations + prefill_chunk * 2 * q_heads * 4 + 4 * max_batch * plan.vocab_size * 4


def memory_bytes(
    plan: WidthPlan,
    quantization: Quantization,
    context: int,
    prefill_chunk: int = DEFAULT_PREFILL_CHUNK,
    max_batch: int = 1,
) -> int:
    """Bytes of a model on a device, in MLC's engine: weights, the KV cache for `context` tokens, and workspace."""
    workspace = workspace_bytes(plan, quantization, min(prefill_chunk, context), max_batch)
    return loaded_weight_bytes(plan, quantization) + engine_kv_bytes(plan, quantization, context, max_batch) + workspace


def layer_matrix_parameters(plan: WidthPlan) -> int:
    """Weights of the matrix products inside the layers: no biases, no norms."""
    total = 0
    for layer in plan.layers:
        qk = (layer.num_attention_heads + layer.num_key_value_heads) * layer.qk_head_dim
        total += (qk + layer.num_key_value_heads * layer.v_head_dim + layer.attention_size) * plan.hidden_size
        total += 3 * layer.intermediate_size * plan.hidden_size
    return total


def decode_flops(plan: WidthPlan, context: int) -> int:
    """FLOPs of decoding one token that attends to `context` tokens, including itself; logits included."""
    attention = sum(
        2 * context * layer.num_attention_heads * (layer.qk_head_dim + layer.v_head_dim) for layer in plan.layers
    )
    return 2 * layer_matrix_parameters(plan) + attention + 2 * plan.hidden_size * plan.vocab_size


def prefill_flops(plan: WidthPlan, tokens: int, past: int = 0) -> int:
    """FLOPs of a causal prefill of `tokens` after `past` cached ones, with logits for the last token only."""
    pairs = tokens * past + tokens * (tokens + 1) // 2
    attention = sum(
        2 * pairs * layer.num_attention_heads * (layer.qk_head_dim + layer.v_head_dim) for layer in plan.layers
    )
    return 2 * tokens * layer_matrix_parameters(plan) + attention + 2 * plan.hidden_size * plan.vocab_size


def decode_read_bytes(plan: WidthPlan, quantization: Quantization, context: int) -> int:
    """Bytes that decoding one token reads: every weight once, and the KV cache of `context` tokens.

    An untied embedding isn't counted, since only one of its rows is read.
    """
    tied = replace(plan, tie_word_embeddings=True)
    return loaded_weight_bytes(tied, quantization) + context * kv_bytes_per_token(plan, quantization)


@dataclass(frozen=True)
class Requirements:
    """What a command does and needs.

    Attributes:
        steps: The names of its steps, in order.
        tokens: Tokens of text that it reads; 0 for none.
        memory_bytes: The most memory that it has resident.
        disk_bytes: Bytes of its output, and of what it keeps in the cache for it.
    """

    steps: Sequence[str]
    tokens: int
    memory_bytes: int
    disk_bytes: int

    def __str__(self) -> str:
        tokens = f"{self.tokens:,} tokens, " if self.tokens else ""
        disk = f" and {megabytes(self.disk_bytes)} of disk" if self.disk_bytes else ""
        return f"{tokens}about {megabytes(self.memory_bytes)} of memory{disk}"
