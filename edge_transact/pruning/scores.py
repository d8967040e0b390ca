"""What a scoring method says of one layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from edge_transact.pruning.rotation import Rotation
from edge_transact.pruning.units import MODULES, UNITS, Module, Unit

RANKS = ("heads", "v_dims", "qk_pairs", "intermediate")


@dataclass(frozen=True)
class PredictedLosses:
    """The losses that a method predicts, fp32, in nats a token.

    `curves` are the loss of the layer by the number of units kept, ``[units + 1]`` by the unit's name; `reference` is
    the loss of each module's cut by `sensitivity.reference`.
    """

    curves: Mapping[str, torch.Tensor]
    reference: Mapping[Module, torch.Tensor]


@dataclass(frozen=True)
class LayerScores:
    """The scores of one layer's units; the highest are kept. All fp32.

    Attributes:
        heads: Query heads, ``[num_attention_heads]``.
        v_dims: Value dims of each KV head, ``[num_key_value_heads, v_head_dim]``.
        qk_pairs: RoPE pairs of each KV head and its query heads, ``[num_key_value_heads, qk_head_dim / 2]``.
        intermediate: MLP dims, ``[intermediate_size]``.
        losses: Predicted losses, if the method predicts them and they are wanted.
        means: The mean inputs of `units.CONSUMERS`, ``[attention_size]`` and ``[intermediate_size]``, if the
            method has biases take over the mean effect of the dims that are cut.
        rotation: The dims that `v_dims` scores, if the method has value heads rotated before they are cut.
    """

    heads: torch.Tensor
    v_dims: torch.Tensor
    qk_pairs: torch.Tensor
    intermediate: torch.Tensor
    losses: PredictedLosses | None = None
    means: Mapping[Module, torch.Tensor] | None = None
    rotation: Rotation | None = None

    def of(self, unit: Unit) -> torch.Tensor:
        """The scores that a unit is selected by: ``[units]``, or ``[groups, units]`` for units inside KV groups."""
        values: torch.Tensor = getattr(self, unit.score or unit.kept)
        if unit.place == "layer":
            return values
        groups = len(self.v_dims)
        by_group = values.view(groups, values.numel() // max(1, groups))
        return by_group if unit.place == "in group" else by_group.mean(dim=1)

    def ranks(self) -> dict[str, torch.Tensor]:
        """The four scores by name: what every method gives."""
        return {name: getattr(self, name) for name in RANKS}

    def rank_bytes(self) -> bytes:
        """Them all as bytes, in their order, for a digest."""
        return b"".join(tensor.contiguous().numpy().tobytes() for tensor in self.ranks().values())

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors under flat names, for a file."""
        tensors = self.ranks()
        if self.losses is not None:
            tensors |= {f"curves.{name}": curve for name, curve in self.losses.curves.items()}
            tensors |= {f"reference.{module}": loss for module, loss in self.losses.reference.items()}
        if self.means is not None:
            tensors |= {f"means.{module}": mean for module, mean in self.means.items()}
        if self.rotation is not None:
            tensors |= {"rotation.into": self.rotation.into, "rotation.back": self.rotation.back}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> LayerScores:
        curves = {name: tensors[f"curves.{name}"] for name in UNITS if f"curves.{name}" in tensors}
        reference = {module: tensors[f"reference.{module}"] for module in MODULES if f"reference.{module}" in tensors}
        means = {module: tensors[f"means.{module}"] for module in MODULES if f"means.{module}" in tensors}
        maps = [tensors[name] for name in ("rotation.into", "rotation.back") if name in tensors]
        return cls(
            **{name: tensors[name] for name in RANKS},
            losses=PredictedLosses(curves, reference) if curves else None,
            means=means or None,
            rotation=Rotation(*maps) if maps else None,
        )
