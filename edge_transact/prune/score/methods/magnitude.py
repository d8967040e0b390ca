"""Magnitude: a unit has the sum of ``|weight|``. The simplest method that looks at the model, and at no text."""

from __future__ import annotations

from edge_transact.prune.score.methods.scorer import Activations, Scorer
from edge_transact.prune.score.salience import LayerScores
from edge_transact.prune.score.structures import scores_of_weights


class Magnitude(Scorer):
    """Scores a layer by its weights alone."""

    def add(self, seen: Activations) -> None:
        """Nothing."""

    def scores(self) -> LayerScores:
        return scores_of_weights(self.layer, self.widths, lambda projection: projection.weight.abs())
