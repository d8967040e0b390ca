"""How much each input of a matrix matters, from the weights alone.

The squared error of a product's output is the sum over inputs of ``error ** 2 * input ** 2``, if inputs don't depend on
each other. Without text, an input's size follows from what computes it: an RMSNorm's outputs are about as large as its
weights; a row of `v_proj` gives values as large as its norm, once the row is scaled by those weights. Such estimates
are rough, and trusting them half measures best: the importance is the size, not its square.
"""

from __future__ import annotations

import torch

from edge_transact.checkpoint import Checkpoint

FLOOR = 1e-2
"""The least importance of an input, as a share of the mean: text may use what the weights make look dead."""


ROWS = 512
"""Rows of a matrix that are squared at once."""


def input_importance(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    """The relative size of each input of a matrix, a root mean square.

    Args:
        checkpoint: The checkpoint.
        name: One of its matrices.

    Returns:
        fp32 ``[in_features]``, relative to the mean and at least `FLOOR`.
    """
    sizes = _squares(checkpoint, name).sqrt()
    mean = sizes.mean()
    if not mean > 0 or not torch.isfinite(mean):
        return torch.ones_like(sizes)
    return (sizes / mean).clamp_min(FLOOR)


def _squares(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    layer, part = name.rpartition(".self_attn.")[::2] if ".self_attn." in name else name.rpartition(".mlp.")[::2]
    if part in ("q_proj.weight", "k_proj.weight", "v_proj.weight"):
        return _square(checkpoint, f"{layer}.input_layernorm.weight")
    if part in ("gate_proj.weight", "up_proj.weight"):
        return _square(checkpoint, f"{layer}.post_attention_layernorm.weight")
    if part == "o_proj.weight":
        widths = checkpoint.plan.layers[int(layer.rpartition(".")[2])]
        values = _outputs(checkpoint, f"{layer}.self_attn.v_proj.weight", f"{layer}.input_layernorm.weight")
        heads = values.view(widths.num_key_value_heads, -1)
        return heads.repeat_interleave(widths.num_attention_heads // widths.num_key_value_heads, dim=0).flatten()
    if part == "down_proj.weight":
        norm = f"{layer}.post_attention_layernorm.weight"
        gate, up = (_outputs(checkpoint, f"{layer}.mlp.{of}_proj.weight", norm) for of in ("gate", "up"))
        return gate * up
    return _square(checkpoint, "model.norm.weight")  # lm_head, or the embedding that is used as it


def _square(checkpoint: Checkpoint, name: str) -> torch.Tensor:
    return checkpoint.tensor(name).float().square()


def _outputs(checkpoint: Checkpoint, name: str, norm: str) -> torch.Tensor:
    """The mean square of each output of a projection behind a norm."""
    weights = _square(checkpoint, norm)
    # In blocks, because a matrix of a large model takes a gigabyte in fp32.
    return torch.cat([rows.float().square_() @ weights for rows in checkpoint.tensor(name).split(ROWS)])
