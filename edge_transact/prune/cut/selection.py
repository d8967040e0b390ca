"""Which heads, dims inside heads and MLP dims of a layer stay."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edge_transact.prune.score.salience import LayerScores
from edge_transact.widths import LayerWidths


@dataclass(frozen=True)
class LayerSelection:
    """What a layer keeps of the source's layer; all indices int64 and ascending.

    Row ``i`` of `queries`, `qk_pairs` and `v_dims` is what group ``groups[i]`` keeps.

    Attributes:
        groups: KV heads, each with the query heads that it serves (under MHA, one); ``[groups]``.
        queries: Query heads inside each group, counted from its first; ``[groups, queries a group]``.
        qk_pairs: RoPE pairs of each KV head and its query heads, of those that the source's layer has:
            pair ``i`` is dims ``(i, i + qk_head_dim / 2)`` of its heads; ``[groups, qk_head_dim / 2]``.
        v_dims: Value dims of each KV head; ``[groups, v_head_dim]``.
        intermediate: MLP dims; ``[intermediate_size]``.
    """

    groups: torch.Tensor
    queries: torch.Tensor
    qk_pairs: torch.Tensor
    v_dims: torch.Tensor
    intermediate: torch.Tensor

    @classmethod
    def everything(cls, layer: LayerWidths) -> LayerSelection:
        """The selection that keeps the whole layer."""
        groups = layer.num_key_value_heads
        return cls(
            groups=torch.arange(groups),
            queries=torch.arange(layer.q_per_kv).repeat(groups, 1),
            qk_pairs=torch.arange(layer.qk_head_dim // 2).repeat(groups, 1),
            v_dims=torch.arange(layer.v_head_dim).repeat(groups, 1),
            intermediate=torch.arange(layer.intermediate_size),
        )

    def then(self, further: LayerSelection) -> LayerSelection:
        """This selection, cut again by one whose indices count what this one keeps."""

        def again(kept: torch.Tensor, fewer: torch.Tensor) -> torch.Tensor:
            return kept[further.groups].gather(1, fewer)

        return LayerSelection(
            groups=self.groups[further.groups],
            queries=again(self.queries, further.queries),
            qk_pairs=again(self.qk_pairs, further.qk_pairs),
            v_dims=again(self.v_dims, further.v_dims),
            intermediate=self.intermediate[further.intermediate],
        )

    @property
    def widths(self) -> LayerWidths:
        """The widths of the layer that is left."""
        return LayerWidths(
            num_attention_heads=self.queries.numel(),
            num_key_value_heads=len(self.groups),
            qk_head_dim=2 * self.qk_pairs.shape[1],
            v_head_dim=self.v_dims.shape[1],
            intermediate_size=len(self.intermediate),
        )


def top_indices(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The indices of the `count` highest of `scores` (``[n]``), ascending; of equal scores the first ones stay.

    Returns:
        int64, ``[count]``.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:count].sort().values


def select(scores: LayerScores, target: LayerWidths) -> LayerSelection:
    """The best of everything in a layer, as many as `target` has.

    A group scores as the mean of its query heads, so that under MHA a group is a head. Each group that stays keeps its
    own best query heads and dims.
    """
    heads = scores.heads.unflatten(0, (len(scores.v_dims), -1))
    groups = top_indices(heads.mean(dim=1), target.num_key_value_heads)

    def inside(values: torch.Tensor, count: int) -> torch.Tensor:
        return torch.stack([top_indices(row, count) for row in values[groups]])

    return LayerSelection(
        groups=groups,
        queries=inside(heads, target.q_per_kv),
        qk_pairs=inside(scores.qk_pairs, target.qk_head_dim // 2),
        v_dims=inside(scores.v_dims, target.v_head_dim),
        intermediate=top_indices(scores.intermediate, target.intermediate_size),
    )
