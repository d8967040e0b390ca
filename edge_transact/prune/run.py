"""Pruning from end to end: a checkpoint and a budget in, a smaller checkpoint out. No training."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edge_transact import costs
from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.errors import UsageError
from edge_transact.inputs.models import resolve_model
from edge_transact.prune.allocate.allocation import DEFAULT_BUCKET, Allocation, allocate, check_choices
from edge_transact.prune.allocate.budget import Budget
from edge_transact.prune.allocate.curves import Curves, loss_curves
from edge_transact.prune.allocate.schedule import shot_plans
from edge_transact.prune.calibrate.layerwise import LayerwiseModel
from edge_transact.prune.calibrate.windows import DEFAULT_PACKING, DEFAULT_TEXT, DEFAULT_TOKENS, read_calibration
from edge_transact.prune.compensate import compensation, last_norm
from edge_transact.prune.compensate.regression import Fit
from edge_transact.prune.cut.selection import LayerSelection, select
from edge_transact.prune.cut.surgery import LAYERS_PREFIX, pruned_layer, pruned_tensors, shifted_biases
from edge_transact.prune.journal import Journal
from edge_transact.prune.score.methods import DEFAULT_METHOD, Scorer, find_method
from edge_transact.prune.score.passes import score_layers
from edge_transact.prune.score.sensitivity import measure_sensitivity
from edge_transact.prune.scores import LayerScores
from edge_transact.prune.units import DEFAULT_UNITS
from edge_transact.widths import WidthPlan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PruneResult:
    """A pruned model.

    Attributes:
        checkpoint: Where it is, opened.
        source: The model that it was made from.
        provenance: How it came about, as written to ``edge_transact.json``.
        notes: What was decided or rounded on the way.
        scores: Of each layer, in the first shot.
        sensitivity: fp32 ``[layers, 2]`` as `measure_sensitivity` gives it, where the allocation asked for it.
        fits: How `o_proj` and `down_proj` of each layer were solved anew, by name; empty without compensation.
        seconds: From start to end.
    """

    checkpoint: Checkpoint
    source: Checkpoint
    provenance: dict[str, Any]
    notes: tuple[str, ...]
    scores: Sequence[LayerScores]
    sensitivity: torch.Tensor | None
    fits: Sequence[dict[str, Fit]]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """What ``prune --json`` prints, but for the memory."""
        plan = self.checkpoint.plan
        how = ("method", "budget", "allocation", "units", "compensate", "bucket", "shots", "calibration", "seed")
        return {
            "output": str(self.checkpoint.path),
            "parameters": costs.parameters(plan),
            "source_parameters": costs.parameters(self.source.plan),
            "ratio": costs.cut_ratio(plan, self.source.plan),
            "widths": plan.to_list(),
            **{name: self.provenance[name] for name in how},
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


def prune(
    model: str,
    output: Path,
    budget: Budget,
    *,
    method: str = DEFAULT_METHOD,
    allocation: str | None = None,
    units: Sequence[str] = (),
    compensate: bool | None = None,
    shots: int = 1,
    bucket: int = DEFAULT_BUCKET,
    calibration: str | Sequence[str] = DEFAULT_TEXT,
    calibration_tokens: int = DEFAULT_TOKENS,
    calibration_window: int | None = None,
    packing: str = DEFAULT_PACKING,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
) -> PruneResult:
    """Prunes a model to a budget and writes the smaller checkpoint.

    Args:
        model: Any MODEL; one that was pruned before can be pruned again.
        output: The directory to write.
        budget: How small.
        method: What scores the units of each layer, a name of `methods.METHODS`.
        allocation: How limits are spread over layers and units, one of `allocation.ALLOCATIONS`; `None` for
            ``budgeted`` with the method ``best`` and ``uniform`` with the others, as they were published.
        units: What limits may cut, names of `pricing.UNITS`; empty for what the allocation does by itself.
        compensate: Whether `o_proj` and `down_proj` are solved anew; `None` for yes with ``best`` and no with others.
        shots: In how many steps the widths shrink; each scores the model that the one before left.
        bucket: MLP widths computed from limits are multiples of it.
        calibration: Any TEXT, or several.
        calibration_tokens: How much of them.
        calibration_window: In windows of how many tokens.
        packing: How windows are cut, one of `calibration.PACKINGS`.
        seed: Which part of it. The same seed gives the same bytes.
        resume: Go on with what an interrupted run with the same options left.
        force: Replace `output` if it exists.

    Raises:
        UsageError: An argument is out of range, or the budget is beyond this model.
        EdgeTransactError: The model or the text can't be read or used, or `output` exists.
    """
    started = time.perf_counter()
    if shots < 1:
        raise UsageError(f"--shots {shots} is not at least 1", fix="1 scores once; 8 is the paper's.")
    scoring = find_method(method)
    allocation = allocation or scoring.allocation
    compensate = scoring.compensates if compensate is None else compensate
    refuse_existing(output, force)
    source = Checkpoint.open(resolve_model(model))
    priced = scoring.priced_units
    if not units and allocation == "budgeted" and not set(DEFAULT_UNITS) <= set(priced):
        units = [unit for unit in DEFAULT_UNITS if unit in priced]
    check_choices(budget, source.plan, allocation, units, bucket)
    if allocation == "budgeted" and not set(units) <= set(priced):
        raise UsageError(
            f"--units {','.join(units)} with --allocation budgeted: {method} doesn't say what dims inside heads cost",
            fix=f"Give some of {', '.join(priced)}, --allocation uniform, or --method {DEFAULT_METHOD}.",
        )
    windows = read_calibration(
        source, calibration, tokens=calibration_tokens, window=calibration_window, packing=packing, seed=seed
    )
    provenance = {
        "source": model,
        "method": method,
        "budget": budget.to_dict(),
        "allocation": allocation,
        "units": list(units),
        "compensate": compensate,
        "bucket": bucket,
        "shots": shots,
        "calibration": windows.to_dict(),
        "seed": seed,
    }
    layerwise = LayerwiseModel(source, windows.windows)
    of_this_run = {"parameters": costs.parameters(source.plan), "dtype": str(layerwise.dtype)}
    journal = Journal(output, provenance | of_this_run, resume=resume)
    run = Pruning(layerwise, scoring, journal, seed)
    target = run.allocate(budget, allocation, units, bucket, shots)
    run.shoot(target.plan, shots)
    provenance["scores_sha256"] = run.digest.hexdigest()
    fits = run.compensate() if compensate else []
    provenance["last_norm_scale"] = run.last_norm_scale
    tensors = pruned_tensors(source, run.selections, run.model.replaced)
    pruned = write_checkpoint(source, target.plan, tensors, provenance, output, force=force)
    journal.close()
    seconds = time.perf_counter() - started
    return PruneResult(pruned, source, provenance, target.notes, run.first_scores, run.sensitivity, fits, seconds)


class Pruning:
    """The state of a model while it is pruned: call `allocate`, then `shoot`, then optionally `compensate`.

    Args:
        model: The source, and the calibration windows.
        method: The class of the layers' scorers.
        journal: What is known already, and where new results go. Scores and sensitivities don't depend on the budget,
            so prunings to several budgets can share a journal.
        seed: For methods that draw random numbers.

    Attributes:
        selections: What is kept of each layer.
        first_scores: The scores of each layer in the first shot.
        sensitivity: The result of `measure_sensitivity`, if the allocation needed it.
        digest: The sha256 of all scores, fp32, shot by shot.
        last_norm_scale: The factor on the last norm's weight; 1 without compensation.
    """

    def __init__(self, model: LayerwiseModel, method: type[Scorer], journal: Journal, seed: int) -> None:
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
        self._wants_losses = False

    def allocate(self, budget: Budget, allocation: str, units: Sequence[str], bucket: int, shots: int) -> Allocation:
        """The target widths. Allocations that need loss curves get them from the first shot's scores."""
        curves: Sequence[Curves] = ()
        if allocation != "uniform" and budget.limits(self.plan):
            self._wants_losses = True
            self.first_scores = self._score(1, shots)
            self.sensitivity = measure_sensitivity(self.model, self.selections, self.first_scores, self.journal)
            curves = loss_curves(self.first_scores, self.plan.layers, self.sensitivity)
        target = allocate(budget, self.plan, allocation=allocation, units=units, bucket=bucket, curves=curves)
        for note in target.notes:
            logger.info(note[0].upper() + note[1:] + ".")
        return target

    def shoot(self, target: WidthPlan, shots: int) -> None:
        """Selects what is kept, shot by shot, and shifts biases if the scores come with means."""
        for shot, plan in enumerate(shot_plans(self.plan, target, shots), start=1):
            scores = self._score(shot, shots)
            if shot == 1:
                self.first_scores = scores
            for index, (layer, widths) in enumerate(zip(scores, plan.layers, strict=True)):
                for tensor in layer.ranks().values():
                    self.digest.update(tensor.contiguous().numpy().tobytes())
                kept, further = self.selections[index], select(layer, widths)
                if layer.means is not None:
                    tensors = pruned_layer(self.model.checkpoint, index, kept, self.model.replaced)
                    self._replace(index, shifted_biases(tensors, kept.widths, further, layer.means))
                self.selections[index] = kept.then(further)

    def compensate(self, journal: Journal | None = None) -> list[dict[str, Fit]]:
        """Solves the consuming projections again and scales the last norm.

        Args:
            journal: Where the results go, which depend on the budget; `None` for the pruning's own journal.

        Returns:
            How each projection of each layer was solved, by name.
        """
        weights, fits, scale = compensation.compensate(self.model, self.selections, journal or self.journal)
        for index, of_layer in enumerate(weights):
            self._replace(index, of_layer)
        self.last_norm_scale = scale
        self.model.replace(last_norm.NAME, scale * self.model.checkpoint.tensor(last_norm.NAME).float())
        return fits

    def _score(self, shot: int, shots: int) -> list[LayerScores]:
        description = "score" if shots == 1 else f"score, shot {shot} of {shots}"
        return score_layers(
            self.model, self.selections, self.method, self.journal, description, self.seed, self._wants_losses
        )

    def _replace(self, index: int, tensors: Mapping[str, torch.Tensor]) -> None:
        for part, tensor in tensors.items():
            self.model.replace(f"{LAYERS_PREFIX}{index}.{part}", tensor)
