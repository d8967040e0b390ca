"""The tensors of a checkpoint, with transformers' names and shapes."""

from __future__ import annotations

from edge_transact.architecture.matrices import ATTENTION_NORM, HEAD_NORMS, MATRICES, MLP_NORM
from edge_transact.widths import WidthPlan

EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"

ROPE_PAIRS = "self_attn.rope_pairs"
"""A layer's table of the RoPE pairs that its KV heads kept, int32 ``[num_key_value_heads, qk_head_dim / 2]``.

Pair ``i`` is dims ``(i, i + head_dim / 2)`` of a head before pruning. A row lists its head's pairs in ascending order.
The rows of q and k are half-split: the first dims of all pairs in that order, then the second dims.
"""


def tensor_shapes(plan: WidthPlan) -> dict[str, tuple[int, ...]]:
    """Name to shape of every tensor of a checkpoint with this plan, in the order of the forward pass.

    A linear's weight is ``[output features, input features]``. A tied ``lm_head.weight`` is left out. Layers that lost
    RoPE pairs have `ROPE_PAIRS`.
    """
    hidden = plan.hidden_size
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (plan.vocab_size, hidden)}
    for index, layer in enumerate(plan.layers):
        prefix = f"model.layers.{index}."
        for norm in (ATTENTION_NORM, MLP_NORM):
            shapes[f"{prefix}{norm}.weight"] = (hidden,)
        for name, matrix in MATRICES.items():
            shapes[f"{prefix}{name}.weight"] = matrix.shape(plan, layer)
            if matrix.has_bias(plan):
                shapes[f"{prefix}{name}.bias"] = matrix.shape(plan, layer)[:1]
        for norm in HEAD_NORMS if plan.use_qk_norm else ():
            shapes[f"{prefix}{norm}.weight"] = (layer.qk_head_dim,)
        if plan.has_rope_pairs(layer):
            shapes[prefix + ROPE_PAIRS] = (layer.num_key_value_heads, layer.qk_head_dim // 2)
    shapes["model.norm.weight"] = (hidden,)
    if not plan.tie_word_embeddings:
        shapes[LM_HEAD] = (plan.vocab_size, hidden)
    return shapes
