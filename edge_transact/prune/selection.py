"""Which heads and MLP dims of a layer stay: the best by score, in ascending order."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edge_transact.prune.salience import LayerScores
from edge_transact.widths import LayerWidths


@dataclass(frozen=True)
class LayerSelection:
    """What a layer keeps of the source's layer.

    Attributes:
        groups: KV heads, each with the query heads that it serves (under MHA, one); int64, ascending.
        intermediate: MLP dims; int64, ascending.
    """

    groups: torch.Tensor
    intermediate: torch.Tensor

    @classmethod
    def everything(cls, layer: LayerWidths) -> LayerSelection:
        """The selection that keeps the whole layer."""
        return cls(groups=torch.arange(layer.num_key_value_heads), intermediate=torch.arange(layer.intermediate_size))

    def then(self, further: LayerSelection) -> LayerSelection:
        """This selection, cut again by one whose indices count what this one keeps."""
        return LayerSelection(groups=self.groups[further.groups], intermediate=self.intermediate[further.intermediate])


def top_indices(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The indices of the `count` highest of `scores` (``[n]``), ascending; of equal scores the first ones stay.

    Returns:
        int64, ``[count]``.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:count].sort().values


def select(scores: LayerScores, target: LayerWidths) -> LayerSelection:
    """The best KV groups and MLP dims of a layer, as many as `target` has.

    A group scores as the mean of its query heads, so that under MHA a group is a head.
    """
    groups = scores.heads.unflatten(0, (-1, target.q_per_kv)).mean(dim=1)
    return LayerSelection(
        groups=top_indices(groups, target.num_key_value_heads),
        intermediate=top_indices(scores.intermediate, target.intermediate_size),
    )
