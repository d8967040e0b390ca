"""The tensors of a LLaMA checkpoint, with transformers' names and shapes."""

from __future__ import annotations

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
        projections = {
            "self_attn.q_proj": (layer.num_attention_heads * layer.qk_head_dim, hidden, plan.attention_bias),
            "self_attn.k_proj": (layer.num_key_value_heads * layer.qk_head_dim, hidden, plan.attention_bias),
            "self_attn.v_proj": (layer.num_key_value_heads * layer.v_head_dim, hidden, plan.attention_bias),
            "self_attn.o_proj": (hidden, layer.attention_size, plan.attention_bias),
            "mlp.gate_proj": (layer.intermediate_size, hidden, plan.mlp_bias),
            "mlp.up_proj": (layer.intermediate_size, hidden, plan.mlp_bias),
            "mlp.down_proj": (hidden, layer.intermediate_size, plan.mlp_bias),
        }
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        for name, (outputs, inputs, bias) in projections.items():
            shapes[f"{prefix}{name}.weight"] = (outputs, inputs)
            if bias:
                shapes[f"{prefix}{name}.bias"] = (outputs,)
        if plan.has_rope_pairs(layer):
            shapes[prefix + ROPE_PAIRS] = (layer.num_key_value_heads, layer.qk_head_dim // 2)
    shapes["model.norm.weight"] = (hidden,)
    if not plan.tie_word_embeddings:
        shapes[LM_HEAD] = (plan.vocab_size, hidden)
    return shapes
