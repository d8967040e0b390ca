"""A transformers LLaMA whose backward pass keeps and computes less.

Norms and gates are computed again from their inputs. Attention is `checkpoint.causal_attention`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from edge_transact.architecture.matrices import ATTENTION_NORM, MLP, MLP_NORM


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


class _Gate(torch.autograd.Function):
    """``silu(gate) * up`` that keeps gate and up only."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        by_up = functional.silu(gate).mul_(gradient)
        by_gate = torch.ops.aten.silu_backward(gradient * up, gate)
        return by_gate, by_up


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

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self._gate, self._up, self._down = (matrix.name.partition(".")[2] for matrix in MLP)
        for matrix in MLP:
            self.add_module(matrix.name.partition(".")[2], layer.get_submodule(matrix.name))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The MLP of ``[..., hidden_size]``."""
        gate, up, down = map(self.get_submodule, (self._gate, self._up, self._down))
        return down(_Gate.apply(gate(hidden), up(hidden)))


def make_lean(model: PreTrainedModel) -> None:
    """Replaces norms and MLPs of a `LlamaForCausalLM`, or ours; parameters and their names stay."""
    inner: Any = model.model
    inner.norm = LeanNorm(inner.norm)
    for layer in inner.layers:
        for name in (ATTENTION_NORM, MLP_NORM):
            if hasattr(layer, name):
                setattr(layer, name, LeanNorm(layer.get_submodule(name)))
        if hasattr(layer, "mlp"):
            layer.mlp = LeanMlp(layer)
