"""A model while it is pruned: widths, then what is kept, shot by shot, then the projections that make up for it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint.layout import LAST_NORM
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.progress import working
from edge_transact.pruning.allocate.allocation import Allocation, allocate, reached, shot_plans
from edge_transact.pruning.allocate.limits import limits_of
from edge_transact.pruning.compensate import compensation
from edge_transact.pruning.compensate.norms import NormFit, train_norms
from edge_transact.pruning.compensate.regression import Fit
from edge_transact.pruning.cut import LAYERS_PREFIX, LayerSelection, pruned_layer, select, shifted_biases
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.score.kept import KeptScores
from edge_transact.pruning.score.methods.scorer import Scorer
from edge_transact.pruning.score.passes import Scoring, description
from edge_transact.pruning.score.sensitivity import Curves, measure_sensitivity, sensitivity_curves
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.search.loop import Found, search
from edge_transact.widths import WidthPlan

logger = logging.getLogger(__name__)

WIDTHS_STEP = "choose the widths"


class Pruning:
    """The state of a model while it is pruned: call `allocate`, then `shoot`, then optionally `compensate`.

    Args:
        model: The source, and the calibration windows.
        journal: What is known already, and where new results go. Prunings to several budgets can share one.
        seed: For methods that draw random numbers.
        compared: The texts on which a search compares plans, as `compared_texts` returns them.
        kept: Scores and sensitivities of earlier prunings of this model on these windows, to this or another budget.
        wants_losses: Whether methods that can predict losses should; `allocate` decides it otherwise.

    Attributes:
        sensitivity: The result of `measure_sensitivity`, if the allocation needed it.
        searched: What the search found, if there was one.
        digest: The sha256 of all scores, fp32, shot by shot.
        last_norm_scale: The factor on the last norm's weight before the norms are trained; 1 without compensation.
        norm_fit: What training the norms brought; `None` without compensation.
    """

    def __init__(
        self,
        model: LayerwiseModel,
        method: type[Scorer],
        journal: Journal,
        seed: int,
        *,
        wants_losses: bool = False,
        compared: Mapping[str, torch.Tensor] | None = None,
        kept: KeptScores | None = None,
    ) -> None:
        self.model = model
        self.method = method
        self.journal = journal
        self.seed = seed
        self.plan = model.checkpoint.plan
        self.selections = [LayerSelection.everything(layer) for layer in self.plan.layers]
        self.first_scores: list[LayerScores] = []
        self.sensitivity: torch.Tensor | None = None
        self.digest = hashlib.sha256()
        self.last_norm_scale = 1.0
        self.norm_fit: NormFit | None = None
        self.wants_losses = wants_losses
        self.compared = compared
        self.kept = kept
        self.searched: Found | None = None

    def allocate(self, options: PruneOptions) -> Allocation:
        """The target widths for `resolved` options. Sensitivity curves come from the first shot's scores."""
        curves: Sequence[Curves] = ()
        if options.allocation != "uniform" and limits_of(options, self.plan):
            self.wants_losses = True
            self.first_scores = self.score(1, options.shots)
            self.sensitivity = measure_sensitivity(
                self.model, self.selections, self.first_scores, self.journal, drops=bool(options.drop), kept=self.kept
            )
            curves = sensitivity_curves(self.first_scores, self.plan.layers, self.sensitivity)
        with working(WIDTHS_STEP):
            target = allocate(options, self.plan, curves)
        if options.search:
            target = self._search(options, target)
        for note in target.notes:
            logger.info(note[0].upper() + note[1:] + ".")
        return target

    def _search(self, options: PruneOptions, start: Allocation) -> Allocation:
        """A better plan than the one of an allocation, within the same limits, or that allocation."""
        assert self.compared is not None
        limits, scores = limits_of(options, self.plan), self.first_scores or self.score(1, options.shots)
        self.searched = search(self.model, scores, start.plan, limits, self.compared, options, self.journal)
        plan = self.searched.best
        if plan == start.plan:
            return replace(start, notes=(*start.notes, self.searched.note()))
        return Allocation(plan, (reached(plan, self.plan, limits), self.searched.note()))

    def shoot(self, target: WidthPlan, shots: int) -> None:
        for shot, plan in enumerate(shot_plans(self.plan, target, shots), start=1):
            self.shoot_once(plan, shot, shots)

    def shoot_once(self, plan: WidthPlan, shot: int, shots: int) -> None:
        """Scores what is left, selects from it what `plan` keeps, and shifts biases if the scores come with means."""
        scores = self.score(shot, shots)
        if not self.first_scores:
            self.first_scores = scores
        for index, (layer, widths) in enumerate(zip(scores, plan.layers, strict=True)):
            self.digest.update(layer.rank_bytes())
            kept, further = self.selections[index], select(layer, widths)
            if layer.means is not None:
                tensors = pruned_layer(self.model.checkpoint, index, kept, self.model.replaced)
                self._replace(index, shifted_biases(tensors, kept.widths, further, layer.means))
            self.selections[index] = kept.then(further)

    def compensate(self, journal: Journal | None = None) -> list[dict[str, Fit]]:
        """Solves the consuming projections again and trains the norms; returns each layer's fits by projection.

        Results depend on the budget, and go to `journal` if one is given.
        """
        journal = journal or self.journal
        weights, fits, scale = compensation.compensate(self.model, self.selections, journal)
        for index, of_layer in enumerate(weights):
            self._replace(index, of_layer)
        self.last_norm_scale = scale
        self.model.replace(LAST_NORM, scale * self.model.checkpoint.tensor(LAST_NORM).float())
        source = journal[compensation.STATE]["source"]
        norms, self.norm_fit = train_norms(self.model, self.selections, source, journal)
        for name, weight in norms.items():
            self.model.replace(name, weight)
        return fits

    def score(self, shot: int, shots: int) -> list[LayerScores]:
        """The scores of each layer as it is now, computed or from the journal."""
        title, kept = description(shot, shots), self.kept if shots == 1 else None
        return Scoring(
            self.model, self.selections, self.method, self.journal, title, self.seed, self.wants_losses, kept
        ).layers()

    def _replace(self, index: int, tensors: Mapping[str, torch.Tensor]) -> None:
        for part, tensor in tensors.items():
            self.model.replace(f"{LAYERS_PREFIX}{index}.{part}", tensor)
