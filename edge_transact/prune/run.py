"""Pruning from end to end: a checkpoint and a budget in, a smaller checkpoint out. No training."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from edge_transact import costs
from edge_transact.artifacts import cache
from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.journal import Journal
from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.artifacts.shown import Shown, Summary, left, summary_of_widths
from edge_transact.artifacts.unfinished import Start, going_on
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.checkpoint.digest import digest_of
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.checkpoint.writer import COPIED_FILES, PROVENANCE_FILE
from edge_transact.errors import UsageError
from edge_transact.inputs.models import resolve_model
from edge_transact.progress import working
from edge_transact.prune.allocate.allocation import Allocation, allocate, check_choices
from edge_transact.prune.allocate.budget import limits_of
from edge_transact.prune.allocate.curves import Curves, loss_curves
from edge_transact.prune.allocate.schedule import shot_plans
from edge_transact.prune.calibrate.layerwise import LayerwiseModel, computation_dtype
from edge_transact.prune.calibrate.windows import calibration_of
from edge_transact.prune.compensate import compensation, last_norm
from edge_transact.prune.compensate.regression import Fit
from edge_transact.prune.cut.selection import LayerSelection, select
from edge_transact.prune.cut.surgery import LAYERS_PREFIX, pruned_layer, pruned_tensors, shifted_biases
from edge_transact.prune.methods import DEFAULT_METHOD, find_method
from edge_transact.prune.options import PruneOptions
from edge_transact.prune.score.methods.scorer import Scorer
from edge_transact.prune.score.passes import description, score_layers
from edge_transact.prune.score.sensitivity import measure_sensitivity
from edge_transact.prune.scores import LayerScores
from edge_transact.prune.units import DEFAULT_UNITS
from edge_transact.runtimes import RUNTIMES
from edge_transact.system.computation import compute_device
from edge_transact.widths import WidthPlan

logger = logging.getLogger(__name__)

TEXT_STEP, WIDTHS_STEP, WRITE_STEP = "calibration text", "choose the widths", "write the checkpoint"

_WRITTEN = "written"
"""The journal's group that has the sha256 of the provenance of the checkpoint that was written."""


@dataclass(frozen=True, repr=False)
class PruneResult(Shown):
    """A pruned model.

    Attributes:
        checkpoint: The pruned checkpoint.
        source: The model that was pruned.
        options: The options, with what they left to the method decided.
        provenance: What ``edge_transact.json`` says about the run.
        notes: What was decided or rounded on the way.
        scores: Scores of each layer in the first shot.
        sensitivity: fp32 ``[layers, 2]`` as `measure_sensitivity` returns it, where the allocation needs it.
        fits: The least-squares fits of `o_proj` and `down_proj` in each layer, by name; empty without compensation.
        seconds: Wall time of the run.
    """

    checkpoint: Checkpoint
    source: Checkpoint
    options: PruneOptions
    provenance: dict[str, Any]
    notes: tuple[str, ...]
    scores: Sequence[LayerScores]
    sensitivity: torch.Tensor | None
    fits: Sequence[dict[str, Fit]]
    seconds: float

    def summary(self) -> Summary:
        """The widths, in front of those of the source, and what was removed."""
        plan, source = self.checkpoint.plan, self.source.plan
        facts = {
            "parameters": left(costs.parameters(plan), costs.parameters(source)),
            "attention and MLP removed": f"{costs.cut_ratio(plan, source):.1%}, by {self.options.method}",
        }
        title = f"{self.checkpoint.path}: {self.provenance['source']}, pruned in {self.seconds:.0f} s"
        return summary_of_widths(title, plan, source, facts)

    def to_dict(self) -> dict[str, Any]:
        """What ``prune --json`` prints, except the peak memory."""
        plan = self.checkpoint.plan
        return {
            "output": str(self.checkpoint.path),
            "parameters": costs.parameters(plan),
            "source_parameters": costs.parameters(self.source.plan),
            "ratio": costs.cut_ratio(plan, self.source.plan),
            "widths": plan.to_list(),
            **{name: self.provenance[name] for name in self.options.provenance()},
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


CODE = ("prune", "options", "checkpoint", "widths.py", "costs.py", "templates/model_card.md.j2")
"""The code that the result depends on, for `cache.code`."""


def prune(
    model: str,
    output: Path,
    options: PruneOptions,
    *,
    resume: bool = False,
    fresh: bool = False,
    force: bool = False,
    finish: Callable[[PruneResult], object] | None = None,
) -> PruneResult:
    """Prunes a model to a budget and writes the smaller checkpoint.

    What an interrupted run with the same options has done is taken over, whatever its output was.

    ``prune("demo:smollm2", Path("pruned"), PruneOptions(ratio=0.3))``

    Args:
        model: Any MODEL; one that was pruned before can be pruned again.
        output: The directory to write.
        options: How small, and how what stays is chosen.
        resume: Fail if there is no interrupted run to go on with.
        fresh: Start over instead.
        force: Replace `output` if it exists.
        finish: Called with the result, such as to write a report. Until it returns, what the run has done is kept: if
            it is interrupted, the same command doesn't prune again.

    Raises:
        UsageError: The budget is beyond this model, options contradict each other, or there is nothing to resume.
        EdgeTransactError: The model or the text can't be read or used, or `output` exists.
    """
    start = Start.of(resume=resume, fresh=fresh)
    started = time.perf_counter()
    scoring = find_method(options.method)
    options = resolved(options, scoring)
    if options.runtime:
        logger.info(f"for {options.runtime}: {RUNTIMES[options.runtime].reason}")
    allocation = options.allocation
    assert allocation is not None, "resolved decides it"
    if finish is None:
        refuse_existing(output, force)
    source = Checkpoint.open(resolve_model(model))
    check_choices(options, source.plan, allocation, options.units, options.bucket)
    with working(TEXT_STEP):
        windows = calibration_of(source, options)
        provenance = {"source": model} | options.provenance() | {"calibration": windows.to_dict()}
        key = ingredients(source, options) | {"calibration": windows.to_dict()}
    with going_on(f"prune {model}", key, start) as journal:
        # A process that was waited for, or an earlier run without its last step, may have written it.
        written = _is_written(journal, output)
        if not written:
            refuse_existing(output, force)
        run = Pruning(LayerwiseModel(source, windows.windows), scoring, journal, options.seed)
        target = run.allocate(options, allocation, options.units, options.bucket, options.shots)
        run.shoot(target.plan, options.shots)
        provenance["scores_sha256"] = run.digest.hexdigest()
        fits = run.compensate() if options.compensate else []
        provenance["last_norm_scale"] = run.last_norm_scale
        with working(WRITE_STEP):
            tensors = pruned_tensors(source, run.selections, run.model.replaced)
            pruned = write_checkpoint(source, target.plan, tensors, provenance, output, force=force or written)
        if options.runtime and (why := RUNTIMES[options.runtime].misfit(target.plan)):
            logger.warning(f"{output} does not fit {options.runtime}: {why}")
        seconds = time.perf_counter() - started
        result = PruneResult(
            pruned, source, options, provenance, target.notes, run.first_scores, run.sensitivity, fits, seconds
        )
        del run, tensors  # what follows needs the memory
        if finish:
            journal[_WRITTEN] = {"sha256": _provenance_digest(output)}
            finish(result)
    return result


def _is_written(journal: Journal, output: Path) -> bool:
    """Whether an earlier run with this journal has written `output`, and nobody has replaced it since."""
    if _WRITTEN not in journal or not (output / PROVENANCE_FILE).is_file():
        return False
    return torch.equal(journal[_WRITTEN]["sha256"], _provenance_digest(output))


def _provenance_digest(output: Path) -> torch.Tensor:
    """The sha256 of what a checkpoint says about its making, int8 ``[32]``."""
    return torch.frombuffer(bytearray.fromhex(sha256(output / PROVENANCE_FILE)), dtype=torch.int8)


def ingredients(source: Checkpoint, options: PruneOptions) -> dict[str, Any]:
    """Everything that a pruning's result depends on, as JSON values, except the calibration text."""
    return {
        "source": digest_of(source, *COPIED_FILES),
        "options": options.identity() | ({"widths": options.widths.read_text()} if options.widths else {}),
        "computation": computation(source),
        "code": cache.code(*CODE),
        **{package: version(package) for package in ("torch", "transformers")},
    }


def computation(source: Checkpoint) -> dict[str, str]:
    """Where and in which dtype a model is computed on this machine: two machines may score it differently."""
    device = compute_device()
    dtype = computation_dtype(source.tensor(EMBEDDING).dtype, device)
    return {"device": device.type, "dtype": str(dtype)}


def resolved(options: PruneOptions, scoring: type[Scorer]) -> PruneOptions:
    """The options with what they leave to the method decided.

    Raises:
        UsageError: The method can't price the units that a budgeted allocation should cut.
    """
    options = _for_runtime(options)
    allocation, units, priced = options.allocation or scoring.allocation, options.units, scoring.priced_units
    if allocation == "budgeted":
        if not units and not set(DEFAULT_UNITS) <= set(priced):
            units = [unit for unit in DEFAULT_UNITS if unit in priced]
        if not set(units) <= set(priced):
            raise UsageError(
                f"--units {','.join(units)} with --allocation budgeted: {options.method} doesn't say what dims inside "
                "heads cost",
                fix=f"Give some of {', '.join(priced)}, --allocation uniform, or --method {DEFAULT_METHOD}.",
            )
    compensate = scoring.compensates if options.compensate is None else options.compensate
    return options.model_copy(update={"allocation": allocation, "units": units, "compensate": compensate})


def _for_runtime(options: PruneOptions) -> PruneOptions:
    """The options with the units and the bucket of the runtime that the model is pruned for.

    Raises:
        UsageError: Given units or a given bucket are none that the runtime takes.
    """
    if options.runtime is None:
        return options
    runtime = RUNTIMES[options.runtime]
    others = [unit for unit in options.units if runtime.units and unit not in runtime.units]
    if others:
        raise UsageError(
            f"--units {','.join(others)} is not for {runtime.name}: {runtime.reason}",
            fix=f"Give --units {','.join(runtime.units)}, or leave it out.",
        )
    bucket = options.bucket if "bucket" in options.model_fields_set else runtime.bucket
    if bucket % runtime.bucket:
        raise UsageError(
            f"--bucket {bucket} is not for {runtime.name}: {runtime.reason}",
            fix=f"Give a multiple of {runtime.bucket}, or leave it out.",
        )
    return options.model_copy(update={"units": options.units or list(runtime.units), "bucket": bucket})


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

    def allocate(
        self, budget: PruneOptions, allocation: str, units: Sequence[str], bucket: int, shots: int
    ) -> Allocation:
        """The target widths. Allocations that need loss curves get them from the first shot's scores."""
        curves: Sequence[Curves] = ()
        if allocation != "uniform" and limits_of(budget, self.plan):
            self._wants_losses = True
            self.first_scores = self._score(1, shots)
            self.sensitivity = measure_sensitivity(self.model, self.selections, self.first_scores, self.journal)
            curves = loss_curves(self.first_scores, self.plan.layers, self.sensitivity)
        with working(WIDTHS_STEP):
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
        return score_layers(
            self.model,
            self.selections,
            self.method,
            self.journal,
            description(shot, shots),
            self.seed,
            self._wants_losses,
        )

    def _replace(self, index: int, tensors: Mapping[str, torch.Tensor]) -> None:
        for part, tensor in tensors.items():
            self.model.replace(f"{LAYERS_PREFIX}{index}.{part}", tensor)
