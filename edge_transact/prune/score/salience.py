"""How much the units of a layer matter: scores, and the parts that scoring methods share.

A transitional activation is what lives inside a block between its wide projections: the concatenated head outputs
that feed `o_proj`, and ``silu(gate) * up`` that feeds `down_proj`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import torch

from edge_transact.widths import LayerWidths

MAX_WEIGHT = 10
"""How much a head's best dim counts beside its mean one, per head dim (TransAct, official code)."""


@dataclass(frozen=True)
class LayerScores:
    """One layer's scores, higher is kept. All fp32.

    Attributes:
        heads: Query heads, ``[num_attention_heads]``; a KV group scores as the mean of its own.
        v_dims: Value dims of each KV head, ``[num_key_value_heads, v_head_dim]``.
        qk_pairs: RoPE pairs of each KV head and its query heads, ``[num_key_value_heads, qk_head_dim / 2]``.
        intermediate: MLP dims, ``[intermediate_size]``.
        extra: What else the method knows of the layer and later stages use, such as loss curves, by name.
    """

    heads: torch.Tensor
    v_dims: torch.Tensor
    qk_pairs: torch.Tensor
    intermediate: torch.Tensor
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The four scores and what is extra, flat, for a file."""
        values = asdict(self)
        return values | dict(values.pop("extra"))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> LayerScores:
        """What `tensors` gave."""
        own = ("heads", "v_dims", "qk_pairs", "intermediate")
        extra = {name: tensor for name, tensor in tensors.items() if name not in own}
        return cls(**{name: tensors[name] for name in own}, extra=extra)


class SquareSum:
    """The squares of each dim of an activation, summed in fp32 over all tokens seen."""

    def __init__(self) -> None:
        self._squares: torch.Tensor | float = 0.0

    def add(self, activation: torch.Tensor) -> None:
        """Takes in a batch: any float dtype, ``[..., size]``."""
        self._squares = self._squares + activation.flatten(end_dim=-2).float().square().sum(dim=0)

    def value(self) -> torch.Tensor:
        """fp32, ``[size]``.

        Raises:
            ValueError: Nothing was seen.
        """
        if isinstance(self._squares, float):
            raise ValueError("no activations were added")
        return self._squares

    def norm(self) -> torch.Tensor:
        """The L2 norm of each dim, fp32, ``[size]``."""
        return self.value().sqrt()


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


def of_groups(dims: torch.Tensor, widths: LayerWidths) -> torch.Tensor:
    """What the query heads of each KV group have together.

    Args:
        dims: ``[num_attention_heads * head_dim]``, head by head; `head_dim` may be either one.
        widths: The layer's.

    Returns:
        Sums over the query heads of a group, ``[num_key_value_heads, head_dim]``.
    """
    return dims.view(widths.num_key_value_heads, widths.q_per_kv, -1).sum(dim=1)


def pair_energy(queries: torch.Tensor, keys: torch.Tensor, widths: LayerWidths) -> torch.Tensor:
    """How much each RoPE pair can move attention: the energy of its queries times that of its keys.

    A rotation leaves the length of a pair alone, so that projections before RoPE will do.

    Args:
        queries: Squares summed over tokens, ``[num_attention_heads * qk_head_dim]``.
        keys: The same, ``[num_key_value_heads * qk_head_dim]``.
        widths: The layer's.

    Returns:
        ``[num_key_value_heads, qk_head_dim / 2]``.
    """
    return of_pairs(of_groups(queries, widths)) * of_pairs(keys.view(widths.num_key_value_heads, -1))


def of_pairs(dims: torch.Tensor) -> torch.Tensor:
    """What the two dims of each RoPE pair have together: ``[..., qk_head_dim]`` to ``[..., qk_head_dim / 2]``."""
    return dims.unflatten(-1, (2, -1)).sum(dim=-2)
