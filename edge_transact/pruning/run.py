"""Pruning from end to end: a checkpoint and a budget in, a smaller checkpoint out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edge_transact import costs
from edge_transact.architecture.families import Family, family_of
from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.artifacts.summary import Summarized, Summary, summary_of_widths
from edge_transact.cache.keys import code_of
from edge_transact.cache.resume import Start, journal_of
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.checkpoint.writer import COPIED_FILES, HEALED, PROVENANCE_FILE
from edge_transact.costs.profile import read_profile
from edge_transact.errors import UsageError
from edge_transact.inputs.models import resolve_model
from edge_transact.inputs.shares import names_of
from edge_transact.layerwise.model import LayerwiseModel, computation_dtype
from edge_transact.layerwise.windows import read_calibration, split
from edge_transact.progress import working
from edge_transact.pruning.allocate.allocation import Allocation, check_reachable
from edge_transact.pruning.allocate.limits import limits_of
from edge_transact.pruning.compensate.regression import Fit
from edge_transact.pruning.cut import pruned_tensors
from edge_transact.pruning.options import PruneOptions, ShotTraining, find_method
from edge_transact.pruning.pruning import Pruning
from edge_transact.pruning.score.kept import KeptScores
from edge_transact.pruning.score.methods.scorer import Scorer
from edge_transact.pruning.score.passes import Scoring
from edge_transact.pruning.score.sensitivity import measure_sensitivity
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.search.loop import Found
from edge_transact.pruning.search.scoring import compared_texts
from edge_transact.pruning.units import DEFAULT_UNITS, UNITS
from edge_transact.runtime.text import check_chats
from edge_transact.runtimes import RUNTIMES, gguf_architecture, one_width, verdicts
from edge_transact.system.computation import compute_device
from edge_transact.system.memory import trim
from edge_transact.widths import WidthPlan

if TYPE_CHECKING:
    from edge_transact.pruning.shots import ShotTrainer

logger = logging.getLogger(__name__)

TEXT_STEP, WRITE_STEP = "calibration text", "write the checkpoint"

_WRITTEN = "written"
"""The journal's group that has the sha256 of the provenance of the checkpoint that was written."""


@dataclass(frozen=True, repr=False)
class PruneResult(Summarized):
    """A pruned model, its source, and how it was made.

    Attributes:
        options: The options, with what they left to the method decided.
        training: How it was trained after each shot; `None` if it wasn't.
        provenance: The content of ``edge_transact.json`` about the run.
        notes: What was decided or rounded on the way.
        scores: Scores of each layer in the first shot.
        sensitivity: fp32 as `measure_sensitivity` returns it, where the allocation needs it.
        fits: The least-squares fits of each layer, by name; empty without compensation, and where training followed it.
        searched: What the search found; `None` without one.
        is_main: Whether this is the process that reports, of those that trained it together.
    """

    checkpoint: Checkpoint
    source: Checkpoint
    options: PruneOptions
    training: ShotTraining | None
    provenance: dict[str, Any]
    notes: tuple[str, ...]
    scores: Sequence[LayerScores]
    sensitivity: torch.Tensor | None
    fits: Sequence[dict[str, Fit]]
    searched: Found | None
    is_main: bool
    seconds: float

    def summary(self) -> Summary:
        """The widths, in front of those of the source, and what was removed."""
        plan, source = self.checkpoint.plan, self.source.plan
        new, old = costs.parameters(plan), costs.parameters(source)
        facts = {
            "parameters": f"{new:,} of {old:,} ({new / old - 1:+.0%})",
            "attention and MLP removed": f"{costs.cut_ratio(plan, source):.1%}, by {self.options.method}",
        }
        facts["runs in"] = "; ".join(f"{name}: {said}" for name, said in verdicts(plan).items())
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
            **{name: self.provenance[name] for name in ("limits",) if name in self.provenance},
            **({HEALED: self.provenance[HEALED]} if self.training else {}),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Cut:
    """A model that was cut, to be written: its widths, its tensors by name, how it was made, and `PruneResult.fits`."""

    target: Allocation
    tensors: Iterable[tuple[str, torch.Tensor]]
    provenance: dict[str, Any]
    fits: Sequence[dict[str, Fit]] = ()


def prune(
    model: str,
    output: Path,
    options: PruneOptions,
    trainer: ShotTrainer | None = None,
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
        trainer: Trains the model after each shot; `None` leaves it as it is.
        finish: Called with the result, such as to write a report. If it is interrupted, the same command doesn't prune
            again.

    Raises:
        UsageError: The budget is beyond this model, options contradict each other, or there is nothing to resume.
        EdgeTransactError: The model or the text can't be read or used, the loss became NaN, or `output` exists.
    """
    start = Start.of(resume=resume, fresh=fresh)
    started = time.perf_counter()
    resolved(options)  # refuses what contradicts itself before a download
    scoring = find_method(options.method)
    if options.runtime:
        logger.info(f"for {options.runtime}: {RUNTIMES[options.runtime].reason}")
    inputs = [
        model,
        options.widths,
        options.profile,
        *names_of(options.calibration),
        *names_of(trainer.training.texts if trainer else []),
    ]
    if finish is None:
        refuse_existing(output, force, apart_from=inputs)
    source = Checkpoint.open(resolve_model(model))
    if options.runtime == "llama.cpp" and not options.allocation and (architecture := one_width(source.plan)):
        logger.info(f"its {architecture} has one width for all layers: allocation uniform")
    options = decided(options, source)
    if options.profile and not read_profile(options.profile).is_measured:
        logger.warning(f"{options.profile} is a roofline: times are estimates from the device's bandwidth and speed")
    processes = trainer.processes if trainer else None
    is_main = not processes or processes.is_main
    with working(TEXT_STEP):
        searched = options.search_tokens if options.search else 0
        read = options.model_copy(update={"calibration_tokens": options.calibration_tokens + searched})
        text = read_calibration(source, read)
        windows, held_out = split(text.windows, searched) if searched else (text.windows, None)
        compared = None if held_out is None else compared_texts(held_out)
        provenance = {"source": model} | options.provenance() | {"calibration": text.to_dict()}
        key = ingredients(source, options, trainer) | {"calibration": text.to_dict()}
    begin = processes.journal_of if processes else journal_of
    with begin(f"prune {model}", key, start) as journal:
        # A process that was waited for, or an earlier run without its last step, may have written it.
        record = output / PROVENANCE_FILE
        written = is_main and _WRITTEN in journal and record.is_file() and journal.noted(_WRITTEN) == sha256(record)
        if is_main and not written:
            refuse_existing(output, force, apart_from=inputs)
        kept = KeptScores(f"scores of {model}", score_ingredients(source, scoring))
        run = Pruning(LayerwiseModel(source, windows), scoring, journal, options.seed, compared=compared, kept=kept)
        cut = trainer.cut(run, options, provenance) if trainer else _cut(run, options, provenance)
        if is_main:
            with working(WRITE_STEP):
                write_checkpoint(source, cut.target.plan, cut.tensors, cut.provenance, output, force=force or written)
            if options.runtime and (why := RUNTIMES[options.runtime].misfit(cut.target.plan)):
                logger.warning(f"{output} does not fit {options.runtime}: {why}")
        if processes:
            processes.wait()
        result = PruneResult(
            checkpoint=Checkpoint.open(output),
            source=source,
            options=options,
            training=trainer.training if trainer else None,
            provenance=cut.provenance,
            notes=cut.target.notes,
            scores=run.first_scores,
            sensitivity=run.sensitivity,
            fits=cut.fits,
            searched=run.searched,
            is_main=is_main,
            seconds=time.perf_counter() - started,
        )
        del run, cut  # what follows needs the memory
        trim()
        if finish and is_main:
            journal.note(_WRITTEN, sha256(record))
            finish(result)
    if processes:
        processes.accelerator.end_training()
    return result


def _cut(run: Pruning, options: PruneOptions, provenance: dict[str, Any]) -> Cut:
    target = run.allocate(options)
    provenance = provenance | target.provenance(limits_of(options, run.plan))
    run.shoot(target.plan, options.shots)
    provenance = provenance | {"scores_sha256": run.digest.hexdigest()}
    fits = run.compensate() if options.compensate else []
    provenance = provenance | {"last_norm_scale": run.last_norm_scale}
    provenance |= {"norms": asdict(run.norm_fit)} if run.norm_fit else {}
    return Cut(target, pruned_tensors(run.model.checkpoint, run.selections, run.model.replaced), provenance, fits)


def ingredients(source: Checkpoint, options: PruneOptions, trainer: ShotTrainer | None = None) -> dict[str, Any]:
    """Everything that a pruning's result depends on, as JSON values, except the calibration text."""
    return {
        "source": source.digest(*COPIED_FILES),
        "options": options.identity()
        | {name: path.read_text() for name in ("widths", "profile") if (path := getattr(options, name))},
        "computation": computation(source),
        "code": code_of(prune, *([type(trainer)] if trainer else ())),
        **{package: version(package) for package in ("torch", "transformers")},
        **(trainer.ingredients(source, options) if trainer else {}),
    }


def score_ingredients(source: Checkpoint, scoring: type[Scorer]) -> dict[str, Any]:
    """What a method's scores depend on beside the calibration windows and the seed, as JSON values."""
    return {
        "source": source.digest(*COPIED_FILES),
        "computation": computation(source),
        "code": code_of(Scoring, measure_sensitivity, scoring),
        **{package: version(package) for package in ("torch", "transformers")},
    }


def computation(source: Checkpoint) -> dict[str, str]:
    """Where and in which dtype a model is computed on this machine: two machines may score it differently."""
    device = compute_device()
    dtype = computation_dtype(source.tensor(EMBEDDING).dtype, device)
    return {"device": device.type, "dtype": str(dtype)}


def resolved(options: PruneOptions) -> PruneOptions:
    """The options with what they leave to the method and the runtime decided.

    Raises:
        UsageError: The method can't price the units that a budgeted allocation should cut, or the runtime can't load
            what the given units or bucket would leave.
    """
    options, scoring = _for_runtime(options), find_method(options.method)
    allocation, units, priced = options.allocation or scoring.allocation, options.units, scoring.priced_units
    if allocation == "budgeted":
        if not units and not set(DEFAULT_UNITS) <= set(priced):
            units = [unit for unit in DEFAULT_UNITS if unit in priced]
        if not set(units) <= set(priced):
            raise UsageError(
                f"--units {','.join(units)} with --allocation budgeted: {options.method} doesn't say what dims inside "
                "heads cost",
                fix=f"Give some of {', '.join(priced)}, --allocation uniform, or --method obs.",
            )
    compensate = scoring.compensates if options.compensate is None else options.compensate
    if options.drop and allocation != "budgeted":
        raise UsageError(
            f"--drop with --allocation {allocation}: only budgeted weighs what is dropped",
            fix="Give --allocation budgeted, or leave --drop out.",
        )
    if options.search and not compensate:
        raise UsageError("--search compares compensated plans, and nothing compensates", fix="Give --compensate.")
    drop = allocation == "budgeted" if options.drop is None else options.drop
    decided = {"allocation": allocation, "units": units, "compensate": compensate, "drop": drop}
    return options.model_copy(update=decided)


def for_model(options: PruneOptions, source: Checkpoint) -> PruneOptions:
    """`resolved`, with what the model's family and its loader in the runtime decide. Raises the same."""
    return _for_family(resolved(_for_loader(options, source.plan)), family_of(source.config))


def decided(options: PruneOptions, source: Checkpoint) -> PruneOptions:
    """The options of `for_model`, for a budget within the model's reach and a chat template that works."""
    options = for_model(options, source)
    check_reachable(options, source.plan)
    check_chats(source.path)
    return options


def _for_family(options: PruneOptions, family: Family) -> PruneOptions:
    """Resolved options for a model of this family, some of whose units may have to stay."""
    for unit in options.units:
        if unit in family.uncut:
            raise UsageError(
                f"--units {unit} is not for {family.title}: {family.uncut[unit]}",
                fix=f"Give some of {', '.join(name for name in UNITS if name not in family.uncut)}, or leave it out.",
            )
    if options.allocation != "budgeted" or options.units or not family.uncut:
        return options
    return options.model_copy(update={"units": [unit for unit in DEFAULT_UNITS if unit not in family.uncut]})


def _for_loader(options: PruneOptions, plan: WidthPlan) -> PruneOptions:
    """The options with an allocation and units, if none are given, for which llama.cpp's loader of the model works."""
    if options.runtime != "llama.cpp":
        return options
    architecture, misfit = gguf_architecture(plan)
    if misfit:
        raise UsageError(f"--for llama.cpp: its {architecture} can't load this model: {misfit}", fix="Give --for mlc.")
    if not (architecture := one_width(plan)):
        return options
    units = options.units or (["mlp"] if architecture == "phi3" else [])
    options = options.model_copy(update={"allocation": options.allocation or "uniform", "units": units})
    if options.allocation != "uniform":
        raise UsageError(
            f"--allocation {options.allocation} --for llama.cpp: its {architecture} has one width for all layers",
            fix="Give --allocation uniform, or leave it out.",
        )
    if architecture == "phi3" and units != ["mlp"]:
        raise UsageError(
            "--for llama.cpp: in its phi3, all heads together have the hidden size's dims",
            fix="Give --units mlp, or leave it out.",
        )
    return options


def _for_runtime(options: PruneOptions) -> PruneOptions:
    """The options with the units and the bucket of the runtime that the model is pruned for."""
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
