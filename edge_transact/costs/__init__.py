"""The costs of a plan: parameters, weight bytes, KV bytes, FLOPs. The only place with these formulas.

A multiply-accumulate is two FLOPs. Only matrix products count (projections, attention scores and values, `lm_head`).
Norms, RoPE, softmax and activations don't, as in the paper's Figure 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edge_transact.architecture.matrices import (
    ATTENTION_INPUTS,
    MATRICES,
    MLP,
    MLP_INPUTS,
    Matrix,
    matrices_of,
    norms_of,
)
from edge_transact.formatting import megabytes
from edge_transact.quantization import Quantization
from edge_transact.widths import LayerWidths, WidthPlan

DEFAULT_CONTEXT = 2048
"""The context window of a build, in tokens, unless the user sets another; memory is counted for it, too."""

DEFAULT_PREFILL_CHUNK = 128
"""The most tokens of one prefill call, unless the user sets another number; memory is counted for it, too."""

HOST_PREFILL_CHUNK = 256
"""The same where libraries are for a host alone, which has the memory: each call unpacks all weights once."""

MEMORY_BYTES = 1 << 30
"""Larger hidden states are kept in a memory-mapped file, of which the system keeps in memory what fits."""

ATTENTION_CALL_PARAMETERS = 450_000
"""W4 weights that can be read in the time that an attention call costs on top of its arithmetic.

Measured on two threads of a Xeon: 5.4 us per call, at 48 GB/s. It is more on a phone's GPU.
"""


def _matrices(
    plan: WidthPlan, layer: LayerWidths, among: Iterable[Matrix] = MATRICES.values()
) -> list[tuple[int, int, bool]]:
    """Rows, columns and whether it has a bias, of a layer's matrices."""
    return [(*matrix.shape(plan, layer), matrix.has_bias(plan)) for matrix in matrices_of(plan, layer, among)]


def _parameters(matrices: Iterable[tuple[int, int, bool]]) -> int:
    return sum(rows * (columns + bias) for rows, columns, bias in matrices)


def mlp_parameters(plan: WidthPlan, layer: LayerWidths) -> int:
    """Parameters of the matrices of one layer's MLP."""
    return _parameters(_matrices(plan, layer, MLP))


def layer_parameters(plan: WidthPlan, layer: LayerWidths) -> int:
    """Parameters of the matrices of one layer."""
    return _parameters(_matrices(plan, layer))


def _norm_parameters(plan: WidthPlan) -> int:
    """Parameters of all norms, those of layers and the last one."""
    return sum(sum(norms_of(plan, layer).values()) for layer in plan.layers) + plan.hidden_size


def prunable_parameters(plan: WidthPlan) -> int:
    """Parameters of attention and MLP in all layers. A parameter ratio is a share of them."""
    return sum(layer_parameters(plan, layer) for layer in plan.layers)


def parameters(plan: WidthPlan) -> int:
    """All parameters; a tied `lm_head` isn't counted again."""
    embeddings = plan.vocab_size * plan.hidden_size * (1 if plan.tie_word_embeddings else 2)
    return prunable_parameters(plan) + embeddings + _norm_parameters(plan)


def cut_ratio(plan: WidthPlan, source: WidthPlan) -> float:
    """The share of the source's attention and MLP parameters that the plan cuts."""
    return 1 - prunable_parameters(plan) / prunable_parameters(source)


def weight_bytes(plan: WidthPlan, quantization: Quantization) -> int:
    """Bytes of all weights in the parameter shards, where MLC stores fp32 tensors as bf16."""
    return _weight_bytes(plan, quantization, 2)


def loaded_weight_bytes(plan: WidthPlan, quantization: Quantization) -> int:
    """Bytes of all weights in a device's memory, where fp32 tensors are fp32."""
    return _weight_bytes(plan, quantization, quantization.model_dtype_bytes)


def _weight_bytes(plan: WidthPlan, quantization: Quantization, value_bytes: int) -> int:
    def matrix(inputs: int, outputs: int) -> int:
        if quantization.bits is None:
            return inputs * outputs * value_bytes
        groups = math.ceil(inputs / quantization.group_size)
        return outputs * groups * (quantization.words_per_group * 4 + value_bytes)

    total = matrix(plan.hidden_size, plan.vocab_size) * (1 if plan.tie_word_embeddings else 2)
    total += _norm_parameters(plan) * value_bytes
    for layer in plan.layers:
        for rows, columns, bias in _matrices(plan, layer):
            total += matrix(columns, rows) + rows * bias * value_bytes
        if plan.has_rope_pairs(layer):
            total += 4 * layer.num_key_value_heads * layer.qk_head_dim // 2
    return total


def kv_bytes_per_token(plan: WidthPlan, quantization: Quantization) -> int:
    """Bytes of one token in the paged KV cache, over all virtual KV layers, with head dims padded to the cache's."""
    heads = plan.num_virtual_layers * plan.virtual_num_key_value_heads
    return 2 * heads * plan.cache_head_dim * quantization.model_dtype_bytes


PAGE_SIZE = 16
"""Tokens of a page of the paged KV cache, as MLC's engine creates it (``kv_cache_page_size`` of its `EngineConfig`)."""


def kv_cache_bytes(plan: WidthPlan, quantization: Quantization, context: int, max_batch: int = 1) -> int:
    """Bytes that the paged KV cache allocates for `max_batch` sequences of `context` tokens: full pages and one more.

    Source: `PagedAttentionKVCacheObj` in TVM's ``runtime/vm/paged_kv_cache.cc``.
    """
    pages = math.ceil(max_batch * context / PAGE_SIZE) + 1
    return pages * PAGE_SIZE * kv_bytes_per_token(plan, quantization)


ENGINE_FREE_TOKENS = 160
"""Tokens of the KV cache that MLC's engine wants free for each running sequence at every step: ten pages.

Otherwise it prefills a sequence near the window's end again for each token, and aborts at the end itself
(`CheckMemForJumpForward` in ``cpp/serve/engine_actions/batch_jumpforward.cc``).
"""


def engine_kv_bytes(plan: WidthPlan, quantization: Quantization, context: int, max_batch: int = 1) -> int:
    """Bytes of the KV cache of MLC's engine, when it is started with `ENGINE_FREE_TOKENS` beyond each context."""
    return kv_cache_bytes(plan, quantization, context + ENGINE_FREE_TOKENS, max_batch)


def largest_context(nbytes: int, bytes_per_token: int, max_batch: int = 1) -> int:
    """The most tokens of context whose `engine_kv_bytes` are at most `nbytes`; less than 1 if none are.

    Both byte counts may be those of a part of the cache's layers.
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
    ``runtime/vm/paged_kv_cache.cc``). Logits are those of decode, and softmax has three more tensors of their size.
    """
    widest = 0
    for layer in plan.layers:
        qkv, gate_and_up = (
            sum(rows for rows, _, _ in _matrices(plan, layer, among)) for among in (ATTENTION_INPUTS, MLP_INPUTS)
        )
        widest = max(widest, qkv + layer.attention_size, gate_and_up + layer.intermediate_size)
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
    return sum(rows * columns for layer in plan.layers for rows, columns, _ in _matrices(plan, layer))


def decode_flops(plan: WidthPlan, context: int) -> int:
    """FLOPs of decoding one token that attends to `context` tokens, including itself; logits included."""
    return prefill_flops(plan, 1, context - 1)


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
    """What a command does and needs: its steps in order, tokens of text, resident memory, and output and cache."""

    steps: Sequence[str]
    tokens: int
    memory_bytes: int
    disk_bytes: int

    def then(self, *others: Requirements) -> Requirements:
        each = (self, *others)
        return Requirements(
            [step for one in each for step in one.steps],
            sum(one.tokens for one in each),
            max(one.memory_bytes for one in each),
            sum(one.disk_bytes for one in each),
        )

    def __str__(self) -> str:
        tokens = f"{self.tokens:,} tokens, " if self.tokens else ""
        disk = f" and {megabytes(self.disk_bytes)} of disk" if self.disk_bytes else ""
        return f"{tokens}about {megabytes(self.memory_bytes)} of memory{disk}"
