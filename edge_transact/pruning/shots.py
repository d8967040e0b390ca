"""Pruning in shots, with a training after each: every shot scores the model that the training before it left.

A shot's model is a checkpoint in the directory of the run's unfinished work, from which the same command goes on after
an interrupt; the next shot's replaces it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_transact.artifacts.listing import listed, problems
from edge_transact.cache.journal import Journal
from edge_transact.cache.resume import repair
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.checkpoint.writer import HEALED, PROVENANCE_FILE, provenance_of
from edge_transact.healing.options import HealOptions, TrainOptions
from edge_transact.healing.processes import Processes
from edge_transact.healing.run import heal, text_of
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.progress import working
from edge_transact.pruning.allocate.allocation import shot_plans
from edge_transact.pruning.allocate.limits import limits_of
from edge_transact.pruning.cut import pruned_tensors
from edge_transact.pruning.options import PruneOptions, ShotTraining
from edge_transact.pruning.pruning import Pruning
from edge_transact.pruning.run import WRITE_STEP, Cut
from edge_transact.widths import WidthPlan

logger = logging.getLogger(__name__)


def shot_trainings(training: ShotTraining, shots: int, model: str, seed: int) -> list[HealOptions]:
    """How the model is trained after each shot; nothing without a text. `model`, before pruning, is the teacher.

    Later shots get more tokens and a higher rate: of N tokens over K shots, shot i of them gets ``N/K (1/2 + (i -
    1)/(K - 1))``, and ``2 i/K`` times the learning rate (TransAct's released code, where N is 1e9, K is 8, and the
    learning rate is 5e-5). A single shot gets all tokens, at the learning rate itself. Shot i reads the text in the
    order of the seed plus i - 1.
    """
    if training.train is None:
        return []
    common = {name: getattr(training, name) for name in TrainOptions.model_fields}
    teacher = None if training.cross_entropy == 1 else model
    trainings = []
    for shot in range(1, shots + 1):
        tokens, rate = float(training.train_tokens), training.learning_rate
        if shots > 1:
            tokens *= (1 / 2 + (shot - 1) / (shots - 1)) / shots
            rate *= 2 * shot / shots
        own = {"train_tokens": max(1, round(tokens)), "learning_rate": rate, "seed": seed + shot - 1}
        trainings.append(HealOptions(**common | own, teacher=teacher))
    return trainings


class ShotTrainer:
    """Trains a model after each shot, for `run.prune`, in one process or in several; `model` is the teacher."""

    def __init__(self, training: ShotTraining, model: str) -> None:
        self.training, self._model, self.processes = training, model, Processes()

    def ingredients(self, source: Checkpoint, options: PruneOptions) -> dict[str, Any]:
        trainings = self._trainings(options)
        return {
            "trainings": [each.identity() for each in trainings],
            "training_text": text_of(source, trainings[0]).to_dict(),
        }

    def cut(self, run: Pruning, options: PruneOptions, provenance: dict[str, Any]) -> Cut:
        target = self.processes.tell(run.allocate(options) if self.processes.is_main else None)
        trainings, provenance = self._trainings(options), provenance | target.provenance(limits_of(options, run.plan))
        last = Shots(run, trainings, bool(options.compensate), provenance, self.processes).run(target.plan)
        if self.processes.is_main and not run.first_scores:  # an earlier run had them
            run.first_scores = run.score(1, options.shots)
        tensors = ((name, last.tensor(name)) for name in last.tensor_names())
        return Cut(target, tensors, provenance_of(last.path))

    def _trainings(self, options: PruneOptions) -> list[HealOptions]:
        return shot_trainings(self.training, options.shots, self._model, options.seed)


@dataclass(frozen=True)
class Shots:
    """The shots of a pruning with training; `compensates` tells whether each solves the consuming projections again."""

    first: Pruning
    trainings: Sequence[HealOptions]
    compensates: bool
    provenance: Mapping[str, Any]
    processes: Processes

    def run(self, target: WidthPlan) -> Checkpoint:
        processes, shots = self.processes, len(self.trainings)
        known = (shot for shot in range(1, shots + 1) if processes.is_main and _is_whole(self._model(shot)))
        done = processes.tell(max(known, default=0))
        for shot, plan in enumerate(shot_plans(self.first.plan, target, shots), start=1):
            if shot > done:
                if processes.is_main:
                    self._prune(shot, plan)
                processes.wait()
                heal(str(self._pruned(shot)), self._model(shot), self.trainings[shot - 1], together=processes)
                if processes.is_main:
                    for path in (self._pruned(shot), self._model(shot - 1), self._journal(shot)):
                        shutil.rmtree(path, ignore_errors=True)
        return Checkpoint.open(self._model(shots))

    def _prune(self, shot: int, plan: WidthPlan) -> None:
        """Writes what this shot leaves of the model of the shot before."""
        if _is_whole(self._pruned(shot)):
            return
        first, shots = self.first, len(self.trainings)
        pruning = first
        if shot > 1:
            model = LayerwiseModel(Checkpoint.open(self._model(shot - 1)), first.model.windows)
            journal = Journal(self._journal(shot))
            repair(journal, f"shot {shot}")
            pruning = Pruning(model, first.method, journal, first.seed, wants_losses=first.wants_losses)
        pruning.shoot_once(plan, shot, shots)
        if self.compensates:
            pruning.compensate()
        source = pruning.model.checkpoint
        with working(WRITE_STEP):
            tensors = pruned_tensors(source, pruning.selections, pruning.model.replaced)
            record = {**self.provenance, "scores_sha256": pruning.digest.hexdigest()}
            if shot > 1:
                record[HEALED] = provenance_of(source.path)[HEALED]
            write_checkpoint(source, plan, tensors, record, self._pruned(shot))
        pruning.model.replaced.clear()  # the training needs the memory

    def _model(self, shot: int) -> Path:
        return self.first.journal.directory / f"shot-{shot}"

    def _pruned(self, shot: int) -> Path:
        return self.first.journal.directory / f"shot-{shot}-pruned"

    def _journal(self, shot: int) -> Path:
        return self.first.journal.directory / f"shot-{shot}-journal"


def _is_whole(checkpoint: Path) -> bool:
    """Whether an earlier run has written it. Removes a damaged one, with a warning."""
    if not checkpoint.exists():
        return False
    files = listed(checkpoint / PROVENANCE_FILE)
    if files and not problems(checkpoint, files):
        return True
    logger.warning(f"{checkpoint} is damaged: making it again")
    shutil.rmtree(checkpoint)
    return False
