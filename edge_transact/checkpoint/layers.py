"""One decoder layer of a checkpoint as a torch module, for processing a model layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from edge_transact.checkpoint import causal_attention
from edge_transact.checkpoint.configuration_edge_llama import EdgeLlamaConfig
from edge_transact.checkpoint.modeling_edge_llama import decoder_layer
from edge_transact.checkpoint.reader import Checkpoint
from edge_transact.checkpoint.writer import model_config
from edge_transact.widths import LayerWidths


def layer_config(checkpoint: Checkpoint, widths: LayerWidths) -> EdgeLlamaConfig:
    """The configuration of a model with one layer, and with the checkpoint's RoPE."""
    plan = checkpoint.plan.with_layers([widths])
    return model_config(checkpoint.config, plan, attn_implementation=causal_attention.NAME)


def load_layer(
    checkpoint: Checkpoint, widths: LayerWidths, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> LlamaDecoderLayer:
    """A layer for inference, whose attention is causal without a mask.

    `tensors` are its weights, by names such as ``self_attn.q_proj.weight``; those with `dtype` aren't copied.
    """
    with torch.device("meta"):
        layer = decoder_layer(layer_config(checkpoint, widths), 0)
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    layer.load_state_dict(state, assign=True)
    return layer.eval()
