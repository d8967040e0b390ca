"""Wanda (Sun et al., ICLR 2024), summed over structures: ``|weight| * ||input||`` over all weights of a unit.

The norm is the L2 norm, over all calibration tokens, of the input feature that the weight multiplies. Value dims are
rotated, and score by the squared error that cutting them leaves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from edge_transact.architecture.matrices import ATTENTION_INPUTS, DOWN, MLP_INPUTS, OUTPUT
from edge_transact.checkpoint.layers import find_linear
from edge_transact.pruning.rotation import least_squares_rotation, value_moments
from edge_transact.pruning.score.methods.scorer import Activations, Scorer
from edge_transact.pruning.score.salience import scores_of_weights
from edge_transact.pruning.scores import LayerScores


class Wanda(Scorer):
    """Scores a layer by its weights and the activations that they multiply."""

    squared: ClassVar[tuple[str, ...]] = ("attention_input", "attention", "mlp_input", "mlp")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._products: torch.Tensor | float = 0.0

    def add(self, seen: Activations) -> None:
        super().add(seen)
        self._products = self._products + value_moments(seen.attention, self.widths)

    def scores(self) -> LayerScores:
        readers = zip((ATTENTION_INPUTS, [OUTPUT], MLP_INPUTS, [DOWN]), self.squares.values(), strict=True)
        norms = {find_linear(self.layer, matrix): read.norm() for matrices, read in readers for matrix in matrices}

        def importance(projection: nn.Linear) -> torch.Tensor:
            return projection.weight.abs() * norms[projection]

        rotation, v_dims = least_squares_rotation(torch.as_tensor(self._products), self.layer)
        return replace(scores_of_weights(self.layer, self.widths, importance), v_dims=v_dims, rotation=rotation)
