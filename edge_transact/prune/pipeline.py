"""Pruning from end to end: a checkpoint and a budget in, a smaller checkpoint out. No training."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_transact import costs
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.errors import UsageError
from edge_transact.inputs.models import resolve_model
from edge_transact.outputs import refuse_existing
from edge_transact.progress import step
from edge_transact.prune.allocation import DEFAULT_BUCKET, Budget, allocate
from edge_transact.prune.calibration import DEFAULT_PACKING, DEFAULT_TEXT, DEFAULT_TOKENS, read_calibration
from edge_transact.prune.journal import Journal
from edge_transact.prune.layerwise import LayerwiseModel
from edge_transact.prune.methods import Scorer, find_method
from edge_transact.prune.passes import score_layers
from edge_transact.prune.salience import LayerScores
from edge_transact.prune.schedule import shot_plans
from edge_transact.prune.selection import LayerSelection, select
from edge_transact.prune.surgery import LAYERS_PREFIX, pruned_layer, pruned_tensors, shifted_biases
from edge_transact.widths import WidthPlan

DEFAULT_METHOD = "transact"


@dataclass(frozen=True)
class PruneResult:
    """A pruned model.

    Attributes:
        checkpoint: Where it is, opened.
        source: The widths that it had.
        provenance: How it came about, as written to ``edge_transact.json``.
        notes: What was decided or rounded on the way.
        seconds: From start to end.
    """

    checkpoint: Checkpoint
    source: WidthPlan
    provenance: dict[str, Any]
    notes: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """What ``prune --json`` prints, but for the memory."""
        plan = self.checkpoint.plan
        return {
            "output": str(self.checkpoint.path),
            "parameters": costs.parameters(plan),
            "source_parameters": costs.parameters(self.source),
            "ratio": costs.cut_ratio(plan, self.source),
            "widths": plan.to_list(),
            **{name: self.provenance[name] for name in ("method", "budget", "bucket", "shots", "calibration")},
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


def prune(
    model: str,
    output: Path,
    budget: Budget,
    *,
    method: str = DEFAULT_METHOD,
    allocation: str = "uniform",
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
        method: What scores heads and MLP dims, a name of `methods.METHODS`.
        allocation: How a ratio or a parameter count is spread over the layers, one of `allocation.ALLOCATIONS`.
        shots: In how many steps the widths shrink; each scores the model that the one before left.
        bucket: MLP widths computed from the budget are multiples of it.
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
    refuse_existing(output, force)
    source = Checkpoint.open(resolve_model(model))
    target = allocate(budget, source.plan, allocation=allocation, bucket=bucket)
    for note in target.notes:
        step(note[0].upper() + note[1:] + ".")
    windows = read_calibration(
        source, calibration, tokens=calibration_tokens, window=calibration_window, packing=packing, seed=seed
    )
    plans = list(shot_plans(source.plan, target.plan, shots))
    provenance = {
        "source": model,
        "method": method,
        "budget": budget.to_dict(),
        "allocation": allocation,
        "bucket": bucket,
        "shots": shots,
        "calibration": windows.to_dict(),
        "seed": seed,
    }
    journal = Journal(output, provenance | {"parameters": costs.parameters(source.plan)}, resume=resume)
    streamed = LayerwiseModel(source, windows.windows)
    selections, digest = _select_all(streamed, plans, scoring, journal, seed)
    provenance["scores_sha256"] = digest
    tensors = pruned_tensors(source, selections, streamed.replaced)
    pruned = write_checkpoint(source, target.plan, tensors, provenance, output, force=force)
    journal.close()
    return PruneResult(pruned, source.plan, provenance, target.notes, time.perf_counter() - started)


def _select_all(
    model: LayerwiseModel, plans: Sequence[WidthPlan], method: type[Scorer], journal: Journal, seed: int
) -> tuple[list[LayerSelection], str]:
    """What is kept of each layer after all shots, and the sha256 of all scores on the way (fp32, shot by shot).

    Biases that stand in for what went are among the model's `replaced` tensors.
    """
    digest = hashlib.sha256()
    selections = [LayerSelection.everything(layer) for layer in model.checkpoint.plan.layers]
    for shot, plan in enumerate(plans, start=1):
        description = "score" if len(plans) == 1 else f"score, shot {shot} of {len(plans)}"
        scores = score_layers(model, selections, method, journal, description, seed)
        for layer in scores:
            _update(digest, layer)
        fewer = [select(layer, target) for layer, target in zip(scores, plan.layers, strict=True)]
        for index, (kept, further, layer) in enumerate(zip(selections, fewer, scores, strict=True)):
            if layer.extra:
                tensors = pruned_layer(model.checkpoint, index, kept, model.replaced)
                for part, bias in shifted_biases(tensors, kept.widths, further, layer.extra).items():
                    model.replace(f"{LAYERS_PREFIX}{index}.{part}", bias)
        selections = [kept.then(further) for kept, further in zip(selections, fewer, strict=True)]
    return selections, digest.hexdigest()


def _update(digest, scores: LayerScores) -> None:
    for tensor in (scores.heads, scores.v_dims, scores.qk_pairs, scores.intermediate):
        digest.update(tensor.contiguous().numpy().tobytes())
