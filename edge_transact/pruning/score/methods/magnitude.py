"""Magnitude: a unit scores the sum of ``|weight|``. The simplest method that looks at the model; it needs no text."""

from __future__ import annotations

from edge_transact.pruning.score.methods.scorer import Scorer
from edge_transact.pruning.score.salience import scores_of_weights
from edge_transact.pruning.scores import LayerScores


class Magnitude(Scorer):
    """Scores a layer by its weights alone."""

    def scores(self) -> LayerScores:
        return scores_of_weights(self.layer, self.widths, lambda projection: projection.weight.abs())
