"""FLAP (An et al., AAAI 2024): how much an input feature fluctuates, times the squared norm of its outgoing weights.

A feature that doesn't fluctuate can be cut: `surgery.shifted_biases` adds its mean to a bias. A dim scores ``variance *
||column||**2``, the mean squared error that its removal leaves; a head scores the sum over its columns. Value dims
are rotated, and score by the error, too. FLAP has no score for Q and K, so RoPE pairs score as in `transact`.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from edge_transact.architecture.matrices import DOWN, OUTPUT, Matrix
from edge_transact.checkpoint.layers import DecoderLayer, find_linear
from edge_transact.pruning.rotation import least_squares_rotation, value_moments
from edge_transact.pruning.score.methods.scorer import Activations, Scorer
from edge_transact.pruning.score.salience import by_head, pair_energy
from edge_transact.pruning.scores import LayerScores


class Flap(Scorer):
    """Scores a layer by its activations and the weights that consume them."""

    squared: ClassVar[tuple[str, ...]] = ("queries", "keys")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._attention, self._mlp = Moments(), Moments()
        self._products: torch.Tensor | float = 0.0

    def add(self, seen: Activations) -> None:
        super().add(seen)
        self._attention.add(seen.attention)
        self._mlp.add(seen.mlp)
        self._products = self._products + value_moments(seen.attention, self.widths)

    def scores(self) -> LayerScores:
        covariances = self._products / self._attention.tokens - value_moments(self._attention.mean[None], self.widths)
        rotation, v_dims = least_squares_rotation(covariances, self.layer)
        queries, keys = (self.squares[name].value() for name in self.squared)
        attention = self._attention.variance() * _column_squares(self.layer, OUTPUT)
        return LayerScores(
            heads=by_head(attention, self.widths).sum(dim=1),
            v_dims=v_dims,
            qk_pairs=pair_energy(queries, keys, self.widths).sqrt(),
            intermediate=self._mlp.variance() * _column_squares(self.layer, DOWN),
            means={"attention": self._attention.mean.float(), "mlp": self._mlp.mean.float()},
            rotation=rotation,
        )


def _column_squares(layer: DecoderLayer, matrix: Matrix) -> torch.Tensor:
    found = find_linear(layer, matrix)
    return torch.empty(0) if found is None else found.weight.float().square().sum(dim=0)


class Moments:
    """Mean (fp64) and variance of each dim of an activation over all tokens; batches are merged as by Chan et al."""

    def __init__(self) -> None:
        self.tokens = 0
        self.mean: torch.Tensor = torch.zeros(())
        self._squares: torch.Tensor = torch.zeros(())  # sums of squared distances to the mean

    def add(self, activation: torch.Tensor) -> None:
        """Adds a batch: any float dtype, ``[tokens, size]``."""
        if not activation.numel():
            self.mean = self._squares = activation.new_zeros(0)  # of what the layer lacks
            return
        variance, mean = torch.var_mean(activation.float(), dim=0, correction=0)
        before, batch = self.tokens, len(activation)
        self.tokens = before + batch
        step = mean.double() - self.mean
        self.mean = self.mean + step * (batch / self.tokens)
        self._squares = self._squares + variance.double() * batch + step.square() * (before * batch / self.tokens)

    def variance(self) -> torch.Tensor:
        """Unbiased, fp32, ``[size]``; zero for a single token."""
        return (self._squares / max(1, self.tokens - 1)).float()
