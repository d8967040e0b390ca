"""Which units of a layer are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from edge_transact.pruning.rotation import Rotation
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.units import GROUPS, UNITS, VALUES, Unit
from edge_transact.widths import LayerWidths


@dataclass(frozen=True)
class LayerSelection:
    """What a layer keeps of the source's layer; all indices are int64 and ascending.

    Row ``i`` of `queries`, `qk_pairs` and `v_dims` is what group ``groups[i]`` keeps.

    Attributes:
        groups: KV heads, each with the query heads that share it (under MHA, one); ``[groups]``.
        queries: Query heads inside each group, counted from its first; ``[groups, queries per group]``.
        qk_pairs: RoPE pairs of each KV head and its query heads, counted among those that the source's layer has:
            pair ``i`` is dims ``(i, i + qk_head_dim / 2)`` of its heads; ``[groups, qk_head_dim / 2]``.
        v_dims: Value dims of each KV head; ``[groups, v_head_dim]``.
        intermediate: MLP dims; ``[intermediate_size]``.
        rotation: What `v_dims` become, if they aren't kept as they are: fewer other dims.
    """

    groups: torch.Tensor
    queries: torch.Tensor
    qk_pairs: torch.Tensor
    v_dims: torch.Tensor
    intermediate: torch.Tensor
    rotation: Rotation | None = None

    @staticmethod
    def everything(layer: LayerWidths) -> LayerSelection:
        """The selection that keeps the complete layer."""

        def all_of(unit: Unit) -> torch.Tensor:
            indices = torch.arange(unit.count(layer))
            return indices.repeat(layer.num_key_value_heads, 1) if unit.place == "in group" else indices

        return _by_unit(all_of)

    def of(self, unit: Unit) -> torch.Tensor:
        """What is kept of a unit: ``[units]``, or ``[groups, units]`` for units inside KV groups."""
        indices: torch.Tensor = getattr(self, unit.kept)
        return indices

    def then(self, further: LayerSelection) -> LayerSelection:
        """This selection, cut again by one whose indices count what this one keeps."""

        def both(unit: Unit) -> torch.Tensor:
            kept, fewer = self.of(unit), further.of(unit)
            if unit.place != "in group":
                return kept[fewer]
            kept = kept[further.groups]
            return kept if unit is VALUES and self.rotation else kept.gather(1, fewer)

        rotation = further.rotation
        if self.rotation:
            earlier = self.rotation.chosen(further.groups, further.v_dims)
            rotation = earlier.then(rotation) if rotation else earlier
        return _by_unit(both, rotation)

    @property
    def widths(self) -> LayerWidths:
        """The widths of the layer that this leaves."""
        return LayerWidths(
            num_attention_heads=self.queries.numel(),
            num_key_value_heads=len(self.groups),
            qk_head_dim=2 * self.qk_pairs.shape[1],
            v_head_dim=self.rotation.into.shape[1] if self.rotation else self.v_dims.shape[1],
            intermediate_size=len(self.intermediate),
        )


def _by_unit(chosen: Callable[[Unit], torch.Tensor], rotation: Rotation | None = None) -> LayerSelection:
    return LayerSelection(**{unit.kept: chosen(unit) for unit in UNITS.values()}, rotation=rotation)


def top_indices(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The int64 indices of the `count` highest of each row of `scores`, ascending; of equal ones, of the first."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[..., :count].sort().values


def select(scores: LayerScores, target: LayerWidths) -> LayerSelection:
    """The highest-scoring units of a layer, as many of each as `target` has.

    Each KV group that is kept keeps its own best query heads, value dims and RoPE pairs. Values are rotated only where
    they lose dims.
    """
    groups = top_indices(scores.of(GROUPS), target.num_key_value_heads)

    def best(unit: Unit) -> torch.Tensor:
        values = scores.of(unit)
        return top_indices(values[groups] if unit.place == "in group" else values, unit.count(target))

    chosen, dims = _by_unit(best), scores.v_dims.shape[1]
    if scores.rotation is None or target.v_head_dim in (0, dims):
        return chosen
    rotation = scores.rotation.chosen(groups, chosen.v_dims).orthonormal()
    return replace(chosen, v_dims=torch.arange(dims).repeat(len(groups), 1), rotation=rotation)
