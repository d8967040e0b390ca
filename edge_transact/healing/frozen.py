"""A model that isn't trained: a teacher, or the weights under LoRA. Its weights are mapped from the checkpoint's files,
in their dtype, so it may be larger than memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from edge_transact.checkpoint import Checkpoint, causal_attention
from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaForCausalLM
from edge_transact.checkpoint.writer import model_config
from edge_transact.healing.lean import make_lean


class _Linear(torch.autograd.Function):
    """A linear that keeps only the weight itself for its backward pass, without its copy in the inputs' dtype."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(weight)
        return functional.linear(inputs, weight.to(inputs.dtype), None if bias is None else bias.to(inputs.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        return gradient @ weight.to(gradient.dtype), None, None


class FrozenLinear(nn.Linear):
    """An `nn.Linear` whose weight may have another dtype than its inputs, and is never trained."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """``[..., in_features]`` to ``[..., out_features]``, in the dtype of the inputs or that of autocast."""
        kind = inputs.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else inputs.dtype
        return _Linear.apply(inputs.to(dtype), self.weight, self.bias)


def load_whole(checkpoint: Checkpoint, tensors: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """A model of transformers on the CPU whose weights are `tensors`, by their names in the checkpoint."""
    config = model_config(checkpoint.config, checkpoint.plan, attn_implementation=causal_attention.NAME)
    with init_empty_weights(include_buffers=False):
        model = EdgeLlamaForCausalLM(config)
    model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    return model


def load_frozen(checkpoint: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
    """A checkpoint, whose files must stay, as a lean model of transformers on the CPU, without gradients.

    `dtype` is that of hidden states.
    """
    model = load_whole(checkpoint, {name: checkpoint.tensor(name) for name in checkpoint.tensor_names()})
    for parent in list(model.modules()):
        for name, module in parent.named_children():
            if type(module) is nn.Linear:
                setattr(parent, name, FrozenLinear(module))
    make_lean(model)
    model.get_input_embeddings().register_forward_hook(lambda _module, _ids, output: output.to(dtype))
    return model.eval().requires_grad_(False)
