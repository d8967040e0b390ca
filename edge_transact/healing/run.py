"""Recovery from end to end: a pruned checkpoint in, a healed one out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.artifacts.summary import Summarized, Summary
from edge_transact.cache.keys import code_of
from edge_transact.cache.resume import Start
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.checkpoint.writer import COPIED_FILES, HEALED, PROVENANCE_FILE, provenance_of
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.evaluation.answers.basics import ask, stop_ids
from edge_transact.evaluation.answers.basics import scores as basics_scores
from edge_transact.evaluation.models import REPORT_TEXT
from edge_transact.evaluation.options import BASICS
from edge_transact.evaluation.perplexity import perplexity
from edge_transact.evaluation.report import main_metric
from edge_transact.evaluation.tasks import Scores, Tasks
from edge_transact.healing.grid import Grid
from edge_transact.healing.lean import Teacher
from edge_transact.healing.measures import Measures
from edge_transact.healing.options import HealOptions
from edge_transact.healing.processes import Processes
from edge_transact.healing.snapshots import Snapshots
from edge_transact.healing.student import Student, generating, load, tensors_of
from edge_transact.healing.text import TrainingText
from edge_transact.healing.train import Evaluate, NotFiniteError, Trained, Training
from edge_transact.inputs.models import resolve_model
from edge_transact.inputs.shares import names_of
from edge_transact.inputs.source import pruned_from
from edge_transact.inputs.texts import read_text
from edge_transact.layerwise.windows import window_of
from edge_transact.progress import working
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.rounding.search import searched_scales
from edge_transact.runtime.text import TextCodec, check_chats
from edge_transact.weights.trained import TrainedRounding, write_scales

logger = logging.getLogger(__name__)

ROUND_STEP = "round to 4 bits"
TEXT_STEP, LOAD_STEP, WRITE_STEP = "training text", "load the model", "write the checkpoint"

WINDOWS, WINDOW = 8, 512
"""Perplexity is that of this many windows, of so many tokens, of the evaluation part of
`evaluation.models.REPORT_TEXT`."""


@dataclass(frozen=True, repr=False)
class HealResult(Summarized):
    """A healed model.

    Attributes:
        source: The checkpoint before.
        record: The entry in ``edge_transact.json``.
        is_main: Whether this is the process that reports, of those that trained it together.
    """

    checkpoint: Checkpoint
    source: Checkpoint
    options: HealOptions
    trained: Trained
    record: Mapping[str, Any]
    measures: Measures
    is_main: bool
    seconds: float

    def summary(self) -> Summary:
        """The loss on held-out text before and after."""
        trained = self.trained
        facts = {
            "learned from": str(self.record["teacher"] or "the text itself"),
            "tokens": f"{trained.tokens:,} in {trained.steps} steps"
            + (", stopped early" if trained.stopped else "")
            + (f"; step {trained.best} was kept" if trained.best < trained.steps else ""),
            "loss on held-out text": f"{trained.held_out_before:.4f} -> {trained.held_out:.4f} nats",
            "speed": f"{self.measures.tokens_per_s:.0f} tokens/s",
        }
        return Summary(f"{self.checkpoint.path}: {self.source.path} healed in {self.seconds:.0f} s", facts)

    def to_dict(self) -> dict[str, Any]:
        """What ``heal --json`` prints, except the peak memory."""
        trained = self.trained
        return {
            "output": str(self.checkpoint.path),
            "loss": trained.loss if math.isfinite(trained.loss) else None,
            "tokens": trained.tokens,
            "steps": trained.steps,
            "best_step": trained.best,
            "stopped_early": trained.stopped,
            "held_out_loss_before": trained.held_out_before,
            "held_out_loss": trained.held_out,
            "tokens_per_s": self.measures.tokens_per_s,
            "teacher": self.record["teacher"],
            "seconds": self.seconds,
        }


def heal(
    model: str,
    output: Path,
    options: HealOptions,
    *,
    resume: bool = False,
    fresh: bool = False,
    force: bool = False,
    finish: Callable[[HealResult], object] | None = None,
    together: Processes | None = None,
) -> HealResult:
    """Trains a pruned model on its teacher's predictions, and writes the better checkpoint.

    An interrupted run with the same options continues, whatever its output was.

    ``heal("pruned", Path("healed"), HealOptions(train_tokens=65536))``

    Args:
        finish: Called with the result, such as to write a report; until it returns, the run's state is kept.
        together: The processes that train it, for further work afterwards; by default those that were launched.

    Raises:
        UsageError: There is no teacher, options contradict the model, or there is nothing to resume.
        EdgeTransactError: A model or the text can't be read, the teacher has another vocabulary, the loss became NaN,
            the disk is full, or `output` exists.
    """
    start = Start.of(resume=resume, fresh=fresh)
    started = time.perf_counter()
    refuse_existing(output, force, apart_from=[model, options.teacher, *names_of(options.texts)])
    source = Checkpoint.open(resolve_model(model))
    check_chats(source.path)
    parent, parent_name = teacher_of(source, options)
    processes = together or Processes()
    with working(TEXT_STEP):
        text = text_of(source, options)
        evaluate = evaluation(source, options, processes)
    record = {**options.identity(), "teacher": parent_name, "text": text.to_dict()}
    with processes.journal_of(f"heal {model}", ingredients(source, parent, options, text), start) as journal:
        with working(LOAD_STEP):
            student = Student(load(source, options), options, stop_ids(TextCodec(source.path)))
        grid = grid_of(source, options, processes)
        teacher = Teacher(parent, processes.dtype, processes.device) if parent else None
        measures = Measures()

        def write(path: Path, loss: float | None, before: float | None, force: bool) -> Checkpoint:
            done = record | {"loss": loss, "loss_before": before}
            provenance = _provenance(source, model) | {HEALED: [*_provenance(source, "").get(HEALED, []), done]}
            tensors = tensors_of(student, source, grid.dtype if grid else None)

            def also(directory: Path) -> None:
                if grid:
                    write_scales(directory, grid.scales(), grid.quantization)

            if processes.is_main:
                write_checkpoint(source, source.plan, tensors, provenance, path, also=also, force=force)
            else:
                for _ in tensors:  # sharded weights are gathered by all
                    pass
            processes.wait()
            return Checkpoint.open(path)

        try:
            trained = Training(
                student,
                text,
                options,
                teacher=teacher,
                processes=processes,
                measures=measures,
                snapshots=Snapshots(journal, processes),
                evaluate=evaluate,
                grid=grid,
            ).run()
        except NotFiniteError as error:
            if not error.best:
                raise
            aside = output.with_name(f"{output.name}-step-{error.best}")
            write(aside, None, None, True)
            raise EdgeTransactError(
                error.message, fix=f"{error.fix} The model of step {error.best}, the best until then, is in {aside}."
            ) from error
        with working(WRITE_STEP):
            checkpoint = write(output, trained.held_out, trained.held_out_before, force)
        seconds = time.perf_counter() - started
        result = HealResult(checkpoint, source, options, trained, record, measures, processes.is_main, seconds)
        if finish and processes.is_main:
            finish(result)
    processes.accelerator.free_memory()  # the next training needs it
    if not together:
        processes.accelerator.end_training()
    return result


def grid_of(source: Checkpoint, options: HealOptions, processes: Processes) -> Grid | None:
    """The grid to train through, with the scales that the checkpoint was trained with or those that `search` finds.

    Raises:
        UsageError: It doesn't go with other options.
    """
    if options.quant is None:
        return None
    if options.lora is not None:
        raise UsageError("--quant with --lora: LoRA's updates are no weights to round", fix="Leave one out.")
    quantization = QUANTIZATIONS[options.quant]

    def scales() -> dict[str, Any]:
        trained = TrainedRounding.of(source)
        if trained and trained.fits(quantization):
            return {name: trained.scales(name) for name in trained.names()}
        return searched_scales(source, quantization)

    with working(ROUND_STEP):
        # Other machines' CPUs may add in another order.
        return Grid(processes.tell(scales() if processes.is_main else None), quantization)


def evaluation(source: Checkpoint, options: HealOptions, processes: Processes) -> Evaluate | None:
    """A function that measures the student; `None` if the options don't ask for it.

    Its figures are ``perplexity``, by text, and ``tasks``, the main metric by task.

    Raises:
        EdgeTransactError: Tasks don't exist or have no time, the model can't be asked, or lm-eval isn't installed.
    """
    asked = [name.strip() for name in (options.tasks or "").split(",") if name.strip()]
    others = [name for name in asked if name != BASICS]
    if not options.eval_every:
        if asked:
            raise UsageError("--tasks without --eval-every, which says when", fix="Give --eval-every N, too.")
        return None
    document, codec = read_text(REPORT_TEXT, "evaluation"), TextCodec(source.path)
    tasks = Tasks(others).load() if others else None

    def measure(student: Student) -> dict[str, Any]:
        with torch.autocast(processes.device.type, torch.bfloat16, enabled=processes.dtype == torch.bfloat16):
            found = perplexity(student.model, codec.tokenizer, document, window=WINDOW, max_windows=WINDOWS)
            scores: Scores = {}
            with generating(student.model):
                if BASICS in asked:
                    scores[BASICS] = basics_scores(ask(student.model, codec))
                if tasks:
                    scores |= tasks.scores(student.model, codec.tokenizer)
        figures: dict[str, Any] = {"perplexity": {REPORT_TEXT: found["perplexity"]}}
        if scores:
            figures["tasks"] = {task: metrics[main_metric(metrics)] for task, metrics in scores.items() if metrics}
        return figures

    return measure


def text_of(source: Checkpoint, options: HealOptions) -> TrainingText:
    length = window_of(source, options.train_window, "--train-window")
    return TrainingText(source, options.texts, length=length, seed=options.seed)


def teacher_of(
    source: Checkpoint, options: HealOptions, model: str | None = None
) -> tuple[Checkpoint | None, str | None]:
    """The model to learn from, and its name; none if the text alone is learned.

    `model` names the checkpoint in messages; its path by default.

    Raises:
        UsageError: None is given, and the checkpoint doesn't name one that is here.
        EdgeTransactError: It has another vocabulary.
    """
    if options.cross_entropy == 1:
        if options.teacher:
            raise UsageError("--teacher with --cross-entropy 1, which learns from the text alone", fix="Leave one out.")
        return None, None
    if options.teacher:
        teacher, name = Checkpoint.open(resolve_model(options.teacher)), options.teacher
    else:
        found = pruned_from(source)
        if found is None and not (source.path / PROVENANCE_FILE).is_file():
            raise UsageError(
                f"{model or source.path} is not a pruned model: heal takes what prune or heal wrote",
                fix=f"Prune it first: edge-transact prune {model or source.path} --ratio 0.2 -o pruned. "
                "Or give the model to learn from with --teacher.",
            )
        if found is None:
            raise UsageError(
                f"{source.path} names no model on this machine that it was pruned from",
                fix="Give the model to learn from with --teacher, or learn from the text alone with --cross-entropy 1.",
            )
        teacher, name = found, _provenance(source, "")["source"]
    ours, theirs = source.plan.vocab_size, teacher.plan.vocab_size
    if ours != theirs:
        raise EdgeTransactError(
            f"the teacher {name} has a vocabulary of {theirs} tokens, {source.path} one of {ours}",
            fix="Give a teacher with the same tokenizer, such as the model before pruning.",
        )
    return teacher, name


def ingredients(
    source: Checkpoint, teacher: Checkpoint | None, options: HealOptions, text: TrainingText
) -> dict[str, Any]:
    """Everything that the result depends on, as JSON values."""
    return {
        "source": source.digest(*COPIED_FILES, PROVENANCE_FILE),
        "teacher": teacher and teacher.digest(),
        "options": options.identity(),
        "text": text.to_dict(),
        "code": code_of(heal),
        **{package: version(package) for package in ("torch", "transformers", "accelerate")},
    }


def _provenance(source: Checkpoint, model: str) -> dict[str, Any]:
    """The checkpoint's provenance; a model without one is its own source."""
    with suppress(OSError, EdgeTransactError):
        return provenance_of(source.path) or {"source": model}
    return {"source": model}
