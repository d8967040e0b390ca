"""Bytes of memory in which this machine prunes, trains, rounds and evaluates a model.

Everywhere, `itemsize` is the bytes of a number in products.
"""

from __future__ import annotations

from edge_transact import costs
from edge_transact.quantization import Quantization
from edge_transact.widths import WidthPlan

PACKAGES_BYTES = 600 << 20
"""What a process has resident once torch, transformers and the tokenizer of a model are loaded."""

COMPILER_BYTES = 230 << 20
"""What TVM adds to it, once it has compiled a kernel."""

REPORT_WINDOW = 512
FP32 = 4


def model_bytes(plan: WidthPlan) -> int:
    return FP32 * costs.parameters(plan)


def logits_bytes(plan: WidthPlan, window: int, *, is_compared: bool = False) -> int:
    """A window's logits and their logarithms in fp32; with a reference, both models' and the divergence."""
    return (5 if is_compared else 2) * FP32 * window * plan.vocab_size


def perplexity_bytes(plan: WidthPlan) -> int:
    """A model and a window's logits, as reports measure it, beside the packages."""
    return PACKAGES_BYTES + model_bytes(plan) + logits_bytes(plan, REPORT_WINDOW)


def pruning_bytes(plan: WidthPlan, tokens: int, itemsize: int, matrices: int, batch: int, logits: int) -> int:
    """The most tensors at once: hidden states, what a batch computes in a layer, sums, and logits.

    `matrices` is how many are summed as wide as an MLP; `batch` and `logits` are tokens that are computed at once.
    """
    hidden, mlp = plan.hidden_size, plan.widest.intermediate_size
    states = 2 * min(tokens * hidden * itemsize, costs.MEMORY_BYTES)
    activations = batch * (6 * mlp + 8 * hidden) * itemsize
    layer = 2 * costs.mlp_parameters(plan, plan.widest) * itemsize
    # The embedding as it is stored and as it is computed with, and logits, most of them in the dtype of products.
    head = 2 * plan.vocab_size * (hidden + logits) * itemsize
    return states + layer + max(activations + FP32 * matrices * mlp**2, head)


def norms_bytes(plan: WidthPlan, tokens: int, itemsize: int, batch: int, logits: int) -> int:
    """The most tensors at once while norms are trained: a batch's input of every layer, a layer, and fp32 logits."""
    hidden, mlp, batch = plan.hidden_size, plan.widest.intermediate_size, min(tokens, batch)
    states = min(tokens * hidden * itemsize, costs.MEMORY_BYTES) + plan.num_hidden_layers * batch * hidden * itemsize
    head = plan.vocab_size * (2 * hidden * itemsize + 5 * FP32 * min(batch, logits))
    return states + head + 2 * _layer(plan) * itemsize + batch * (6 * mlp + 8 * hidden) * itemsize


def codes_bytes(plan: WidthPlan, tokens: int, itemsize: int, batch: int, rows: int) -> int:
    """The most tensors at once while codes are chosen on a text: a layer, its codes, and hidden states, also inside it.

    For the widest matrix, the most of: the Gram matrix of its inputs beside the activations of `batch` tokens; twice
    more of its size while it is factorized; once more while a chunk of `rows` is rounded.
    """
    hidden, mlp = plan.hidden_size, plan.widest.intermediate_size
    inputs = max(hidden, *(max(layer.attention_size, layer.intermediate_size) for layer in plan.layers))
    activations = min(tokens, batch) * (5 * mlp + 2 * hidden) * itemsize
    gram = FP32 * inputs**2
    # The rows in order, their codes, and these in the matrix's own order; at last as bytes.
    chunk = min(rows, max(hidden, mlp)) * inputs * (3 * FP32 + 1)
    states = sum(min(tokens * size * itemsize, costs.MEMORY_BYTES) for size in (hidden, inputs))
    return _layer(plan) * (itemsize + 1) + states + gram + max(activations, 2 * gram, gram + chunk)


def scales_bytes(
    plan: WidthPlan, quantization: Quantization, tokens: int, window: int, itemsize: int, logits: int, teachers: int = 1
) -> int:
    """The most tensors at once while scales are trained on a text.

    The embedding and `lm_head` as codes, `lm_head` once more for each teacher; all scales with their changes and the
    means of their gradients; the teachers' hidden states; the input of every layer for a window; and one layer with its
    codes, the gradient of its largest matrix, and a window's activations, or the logits of so many tokens.
    """
    hidden, mlp, head = plan.hidden_size, plan.widest.intermediate_size, plan.hidden_size * plan.vocab_size
    embeddings = head * (1 if plan.tie_word_embeddings else 2)
    matrices = embeddings + costs.layer_matrix_parameters(plan)
    scales = matrices // quantization.group_size * (quantization.model_dtype_bytes + 2 * FP32)
    states = (
        teachers * min(tokens * hidden * itemsize, costs.MEMORY_BYTES)
        + plan.num_hidden_layers * window * hidden * itemsize
    )
    gradient = 3 * FP32 * hidden * max(plan.widest.attention_size, mlp)
    activations = window * (8 * hidden + 4 * mlp) * itemsize
    layer = max(gradient + activations, (teachers + 1) * min(window, logits) * plan.vocab_size * FP32)
    return embeddings + teachers * head * itemsize + scales + states + _layer(plan) * (itemsize + 1) + layer


def activations_in_training_bytes(
    plan: WidthPlan, tokens: int, itemsize: int, block: int, chunk: int, *, recomputes: bool
) -> int:
    """Activations of `tokens` together, or with `recomputes` one layer's and every layer's input; and logits.

    Of them, a chunk of tokens is in fp32, and a block in the dtype of products.
    """
    widths = [8 * plan.hidden_size + 3 * layer.intermediate_size + 4 * layer.attention_size for layer in plan.layers]
    numbers = max(widths) + len(widths) * plan.hidden_size if recomputes else sum(widths)
    rows = min(tokens, block)
    head = plan.vocab_size * (16 * min(rows, chunk) + itemsize * rows + FP32 * plan.hidden_size)
    # A residual is in fp32, and most of what projections give in the dtype of products.
    return tokens * numbers * (FP32 + itemsize) // 2 + head


def _layer(plan: WidthPlan) -> int:
    return max(costs.layer_parameters(plan, layer) for layer in plan.layers)
