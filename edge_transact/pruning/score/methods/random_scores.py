"""Random scores: the baseline that any method has to beat."""

from __future__ import annotations

import torch

from edge_transact.pruning.score.methods.scorer import Scorer
from edge_transact.pruning.scores import LayerScores


class Random(Scorer):
    """Draws the scores of a layer from [0, 1) with the layer's seed."""

    def scores(self) -> LayerScores:
        widths, generator = self.widths, torch.Generator().manual_seed(self.seed)
        return LayerScores(
            heads=torch.rand(widths.num_attention_heads, generator=generator),
            v_dims=torch.rand(widths.num_key_value_heads, widths.v_head_dim, generator=generator),
            qk_pairs=torch.rand(widths.num_key_value_heads, widths.qk_head_dim // 2, generator=generator),
            intermediate=torch.rand(widths.intermediate_size, generator=generator),
        )
