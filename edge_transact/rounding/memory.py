"""The memory of rounding on calibration text, from a model's widths."""

from __future__ import annotations

import torch

from edge_transact import costs
from edge_transact.cache.journal import MEMORY_BYTES
from edge_transact.layerwise.model import BATCH_TOKENS, LOGITS_TOKENS
from edge_transact.quantization import GROUP_SIZE, Quantization
from edge_transact.rounding.gptq import CHUNK_ROWS
from edge_transact.widths import WidthPlan

FP32 = torch.float32.itemsize


def bytes_of_codes(plan: WidthPlan, tokens: int, dtype: torch.dtype) -> int:
    """The most bytes of tensors at once in `calibrated.round_model`, computed in `dtype`.

    One layer with its codes, hidden states and the inputs of `down_proj`, and for its widest matrix the most of: the
    Gram matrix of its inputs beside a batch's activations; twice more of its size while it is factorized; once more
    while a chunk of rows is rounded.
    """
    hidden = plan.hidden_size
    inputs = max(hidden, *(max(layer.attention_size, layer.intermediate_size) for layer in plan.layers))
    batch = min(tokens, BATCH_TOKENS) * (5 * plan.widest.intermediate_size + 2 * hidden) * dtype.itemsize
    gram = FP32 * inputs**2
    # The rows in order, their codes, and these in the matrix's own order; at last as bytes.
    chunk = min(CHUNK_ROWS, max(hidden, plan.widest.intermediate_size)) * inputs * (3 * FP32 + 1)
    states = sum(min(tokens * size * dtype.itemsize, MEMORY_BYTES) for size in (hidden, inputs))
    return _layer(plan) * (dtype.itemsize + 1) + states + gram + max(batch, 2 * gram, gram + chunk)


def bytes_of_scales(
    plan: WidthPlan, quantization: Quantization, tokens: int, window: int, dtype: torch.dtype, teachers: int = 1
) -> int:
    """The most bytes of tensors at once in `distillation.distill`, computed in `dtype`.

    The embedding and `lm_head` as codes, `lm_head` once more for each teacher; all scales with their changes and the
    means of their gradients; the teachers' hidden states; the input of every layer for a window; and one layer with its
    codes, the gradient of its largest matrix, and a window's activations.
    """
    hidden, layers, head = plan.hidden_size, plan.num_hidden_layers, plan.hidden_size * plan.vocab_size
    embeddings = head * (1 if plan.tie_word_embeddings else 2)
    matrices = embeddings + costs.layer_matrix_parameters(plan)
    scales = matrices // GROUP_SIZE * (quantization.model_dtype_bytes + 2 * FP32)
    states = teachers * min(tokens * hidden * dtype.itemsize, MEMORY_BYTES) + layers * window * hidden * dtype.itemsize
    gradient = 3 * FP32 * hidden * max(plan.widest.attention_size, plan.widest.intermediate_size)
    activations = window * (8 * hidden + 4 * plan.widest.intermediate_size) * dtype.itemsize
    logits = (teachers + 1) * min(window, LOGITS_TOKENS) * plan.vocab_size * FP32
    heads = embeddings + teachers * head * dtype.itemsize
    layer = _layer(plan) * (dtype.itemsize + 1) + max(gradient + activations, logits)
    return heads + scales + states + layer


def _layer(plan: WidthPlan) -> int:
    """Parameters of the largest layer."""
    return max(costs.layer_parameters(plan, layer) for layer in plan.layers)
