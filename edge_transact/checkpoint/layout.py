"""The tensors of a checkpoint, with transformers' names and shapes."""

from __future__ import annotations

from edge_transact.architecture.matrices import matrices_of, norms_of
from edge_transact.widths import LayerWidths, WidthPlan

EMBEDDING, LAST_NORM, LM_HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"

ROPE_PAIRS = "self_attn.rope_pairs"
"""A layer's table of the RoPE pairs that its KV heads kept, int32 ``[num_key_value_heads, qk_head_dim / 2]``.

Pair ``i`` is dims ``(i, i + head_dim / 2)`` of a head before pruning. A row lists its head's pairs in ascending order.
The rows of q and k are half-split: the first dims of all pairs in that order, then the second dims.
"""


def tensor_shapes(plan: WidthPlan) -> dict[str, tuple[int, ...]]:
    """Name to shape of every tensor of a checkpoint with this plan, in the order of the forward pass.

    A linear's weight is ``[output features, input features]``. A tied ``lm_head.weight`` is left out.
    """
    hidden = plan.hidden_size
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (plan.vocab_size, hidden)}
    for index, layer in enumerate(plan.layers):
        shapes |= {f"model.layers.{index}.{part}": shape for part, shape in layer_shapes(plan, layer).items()}
    shapes[LAST_NORM] = (hidden,)
    if not plan.tie_word_embeddings:
        shapes[LM_HEAD] = (plan.vocab_size, hidden)
    return shapes


def layer_shapes(plan: WidthPlan, layer: LayerWidths) -> dict[str, tuple[int, ...]]:
    """The same of a layer's tensors, named within the layer. One that lost RoPE pairs has `ROPE_PAIRS`."""
    shapes: dict[str, tuple[int, ...]] = {f"{norm}.weight": (size,) for norm, size in norms_of(plan, layer).items()}
    for matrix in matrices_of(plan, layer):
        shapes[f"{matrix.name}.weight"] = matrix.shape(plan, layer)
        if matrix.has_bias(plan):
            shapes[f"{matrix.name}.bias"] = matrix.shape(plan, layer)[:1]
    if plan.has_rope_pairs(layer):
        shapes[ROPE_PAIRS] = (layer.num_key_value_heads, layer.qk_head_dim // 2)
    return shapes
