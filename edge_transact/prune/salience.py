"""How much a transitional activation matters: the parts that scoring methods share.

A transitional activation is what lives inside a block between its wide projections: the concatenated head outputs
that feed `o_proj`, and ``silu(gate) * up`` that feeds `down_proj`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

MAX_WEIGHT = 10
"""How much a head's best dim counts beside its mean one, per head dim (TransAct, official code)."""


@dataclass(frozen=True)
class LayerScores:
    """One layer's scores, higher is kept.

    Attributes:
        heads: fp32, ``[num_attention_heads]``.
        intermediate: fp32, ``[intermediate_size]``.
    """

    heads: torch.Tensor
    intermediate: torch.Tensor


class ActivationNorm:
    """The L2 norm of each dim of an activation over all tokens seen, summed up in fp32 whatever the activation's dtype.

    Args:
        size: Dims of the activation.
    """

    def __init__(self, size: int) -> None:
        self._squares = torch.zeros(size, dtype=torch.float32)

    def add(self, activation: torch.Tensor) -> None:
        """Takes in a batch: any float dtype, ``[..., size]``."""
        self._squares += activation.flatten(end_dim=-2).float().square().sum(dim=0)

    def value(self) -> torch.Tensor:
        """fp32, ``[size]``."""
        return self._squares.sqrt()


def head_salience(dims: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Head scores from the scores of their dims: ``mean + 10 / head_dim * max`` (TransAct, section 3.2).

    Args:
        dims: ``[num_heads * head_dim]``, head by head.
        num_heads: Query heads.

    Returns:
        ``[num_heads]``.
    """
    heads = dims.unflatten(0, (num_heads, -1))
    return heads.mean(dim=1) + MAX_WEIGHT / heads.shape[1] * heads.amax(dim=1)
