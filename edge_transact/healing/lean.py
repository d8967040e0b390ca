"""Models of transformers whose backward pass keeps and computes less, and models that aren't trained.

Norms and gates are computed again from their inputs. Attention is `checkpoint.causal_attention`. A teacher, and the
weights under LoRA, are mapped from the checkpoint's files, in their dtype, so they may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from edge_transact.architecture.matrices import HIDDEN_NORMS, MLP
from edge_transact.checkpoint import Checkpoint, causal_attention
from edge_transact.checkpoint.modeling_edge_llama import EdgeLlamaForCausalLM
from edge_transact.checkpoint.writer import model_config
from edge_transact.healing.losses import Predictions
from edge_transact.progress import working

LOAD_STEP = "load the teacher"


class _Norm(torch.autograd.Function):
    """RMSNorm that keeps its input and one number a token."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
        wide = hidden.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(eps))
        ctx.save_for_backward(hidden, weight, scale)
        return (wide * scale).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, scale = ctx.saved_tensors
        normed = hidden.float() * scale
        by_output = gradient.float()
        by_weight = (
            (by_output * normed).flatten(end_dim=-2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        )
        by_normed = by_output * weight
        mean = (by_normed * normed).mean(-1, keepdim=True)
        by_hidden = by_normed.sub_(normed.mul_(mean)).mul_(scale)
        return by_hidden.to(hidden.dtype), by_weight, None, None


_ACTIVATIONS: Mapping[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    "silu": (functional.silu, torch.ops.aten.silu_backward),
    "gelu_pytorch_tanh": (
        partial(functional.gelu, approximate="tanh"),
        partial(torch.ops.aten.gelu_backward, approximate="tanh"),
    ),
}
"""Each activation of `widths.ACTIVATIONS`, and the gradient by its input from that by its output and the input."""


class _Gate(torch.autograd.Function):
    """``activation(gate) * up`` that keeps gate and up only."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, activation: str) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return _ACTIVATIONS[activation][0](gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        gate, up = ctx.saved_tensors
        activate, differentiate = _ACTIVATIONS[ctx.activation]
        by_up = activate(gate).mul_(gradient)
        return differentiate(gradient * up, gate), by_up, None


class LeanNorm(nn.Module):
    """An RMSNorm of transformers with the same weight."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight: nn.Parameter = norm.weight
        self.eps: float = norm.variance_epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Normalizes ``[..., hidden_size]``, in fp32 inside; under autocast, for a projection in its dtype."""
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        return _Norm.apply(hidden, self.weight, self.eps, dtype)


class LeanMlp(nn.Module):
    """A gated MLP with the same projections, by the same names."""

    def __init__(self, layer: nn.Module, activation: str) -> None:
        super().__init__()
        self._activation = activation
        self._gate, self._up, self._down = (matrix.name.partition(".")[2] for matrix in MLP)
        for matrix in MLP:
            self.add_module(matrix.name.partition(".")[2], layer.get_submodule(matrix.name))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        gate, up, down = map(self.get_submodule, (self._gate, self._up, self._down))
        return down(_Gate.apply(gate(hidden), up(hidden), self._activation))


def make_lean(model: PreTrainedModel) -> None:
    """Replaces norms and MLPs of a `LlamaForCausalLM`, or ours; parameters and their names stay."""
    inner: Any = model.model
    inner.norm = LeanNorm(inner.norm)
    for layer in inner.layers:
        for name in HIDDEN_NORMS:
            if hasattr(layer, name):
                setattr(layer, name, LeanNorm(layer.get_submodule(name)))
        if hasattr(layer, "mlp"):
            layer.mlp = LeanMlp(layer, model.config.hidden_act)


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


class Teacher:
    """A model that is loaded for its first prediction, and computes in `dtype` on `device`."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
        self.checkpoint, self.dtype = checkpoint, dtype
        self._device = device
        self._model: PreTrainedModel | None = None

    @property
    def model(self) -> PreTrainedModel:
        if self._model is None:
            with working(LOAD_STEP):
                self._model = load_frozen(self.checkpoint, self.dtype).to(self._device)
        return self._model

    @torch.no_grad()
    def predict(self, ids: torch.Tensor, counted: torch.Tensor) -> Predictions:
        """The predictions of the tokens that count, in order; both arguments are ``[batch, length]``."""
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
        return Predictions(hidden[:, :-1][counted[:, 1:]], self.model.lm_head.weight)
