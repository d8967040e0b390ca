"""LLM-Pruner (Ma et al., NeurIPS 2023) as TransAct's paper compares with it: the sum of ``|weight * gradient|``.

That is how much the summed loss of all calibration tokens would change, to first order, if the weight were zero.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from edge_transact.pruning.score.methods.scorer import Gradients, Scorer
from edge_transact.pruning.score.salience import scores_of_weights
from edge_transact.pruning.scores import LayerScores


class LlmPruner(Scorer):
    """Scores a layer by its weights and their gradients."""

    gradients: ClassVar[Gradients] = "weights"

    def scores(self) -> LayerScores:
        return scores_of_weights(self.layer, self.widths, _taylor)


def _taylor(projection: nn.Linear) -> torch.Tensor:
    if projection.weight.grad is None:
        raise ValueError("the layer went through no backward pass")
    return (projection.weight.float() * projection.weight.grad).abs()
