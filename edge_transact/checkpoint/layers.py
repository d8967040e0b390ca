"""One decoder layer of a checkpoint as a torch module, for processing a model layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaDecoderLayer as DecoderLayer
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from edge_transact.architecture.matrices import Matrix
from edge_transact.checkpoint import causal_attention
from edge_transact.checkpoint.configuration_edge_llama import EdgeLlamaConfig
from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaRotaryEmbedding, decoder_layer
from edge_transact.checkpoint.reader import Checkpoint
from edge_transact.checkpoint.writer import model_config
from edge_transact.errors import EdgeTransactError
from edge_transact.widths import LayerWidths

REPAIR = "Its weights are damaged, or overflow: convert them to float32 or download them again."


def layer_config(checkpoint: Checkpoint, widths: LayerWidths, index: int) -> EdgeLlamaConfig:
    """The configuration of layer 0 of a model, which has RoPE as layer `index` of the checkpoint has."""
    plan = checkpoint.plan
    # A model has heads and MLP dims in some layer.
    other = LayerWidths(widths.q_per_kv or plan.q_per_kv, 1, plan.head_dim, plan.head_dim, 1)
    has_rope = [int(index not in plan.nope_layers), 1] if plan.nope_layers else None
    has_window = [int(index in plan.window_layers), 1] if plan.window_layers else None
    changes = {"attn_implementation": causal_attention.NAME, "no_rope_layers": has_rope, "window_layers": has_window}
    return model_config(checkpoint.config, plan.with_layers([widths, other]), **changes).per_layer_config[0]


def load_layer(
    checkpoint: Checkpoint, widths: LayerWidths, index: int, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> DecoderLayer:
    """Layer `index` for inference, with any widths, whose attention is causal without a mask.

    `tensors` are its weights by their names in a layer; those with `dtype` aren't copied.
    """
    with torch.device("meta"):
        layer = decoder_layer(layer_config(checkpoint, widths, index), 0)
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    layer.load_state_dict(state, assign=True)
    return layer.eval()


def linear(layer: nn.Module, matrix: Matrix) -> nn.Linear:
    found = find_linear(layer, matrix)
    assert found is not None, f"the layer has no {matrix.name}"
    return found


def find_linear(layer: nn.Module, matrix: Matrix) -> nn.Linear | None:
    """The same, or `None` if the layer lacks the attention or the MLP of the matrix."""
    found = dict(layer.named_modules()).get(matrix.name)
    assert found is None or isinstance(found, nn.Linear)
    return found


def rotation(checkpoint: Checkpoint, positions: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """RoPE's cosines and sines at positions ``[batch, n]``, each ``[batch, n, head_dim]`` with the dtype of `like`."""
    config = layer_config(checkpoint, checkpoint.plan.widest, 0)
    return EdgeLlamaRotaryEmbedding(config).to(positions.device)(like, positions)


def final_norm(checkpoint: Checkpoint, weight: torch.Tensor) -> nn.Module:
    """The norm before `lm_head`, with a weight ``[hidden_size]``."""
    norm = LlamaRMSNorm(checkpoint.plan.hidden_size, eps=checkpoint.config.get("rms_norm_eps", 1e-6))
    norm.weight = nn.Parameter(weight)
    return norm.requires_grad_(False)


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor of any shape and dtype has neither NaN nor infinite values."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # One pass and no copy: minimum and maximum are NaN if any value is.
    return all(map(math.isfinite, tensor.aminmax()))


def checked(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The tensor; raises `EdgeTransactError` with its name if it holds NaN or infinity."""
    if not is_finite(tensor):
        raise EdgeTransactError(f"{name} holds NaN or infinity", fix=REPAIR)
    return tensor
