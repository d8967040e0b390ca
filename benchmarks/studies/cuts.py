"""Cuts one model with many methods to many sizes. Each method scores it once per seed; each cut is evaluated once.

Measured rows are kept in a JSON lines file, and not measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import torch

from edge_transact import costs
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.errors import UsageError
from edge_transact.evaluation.perplexity import perplexity
from edge_transact.inputs import read_text
from edge_transact.inputs.models import resolve_model
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.layerwise.options import CalibrationOptions
from edge_transact.layerwise.windows import read_calibration
from edge_transact.pruning.cut import pruned_tensors
from edge_transact.pruning.options import PruneOptions, find_method
from edge_transact.pruning.pruning import Pruning

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """One pruned model of a study.

    Attributes:
        method: Method that scores the units.
        ratio: Share of attention and MLP parameters that is cut.
        allocation: As in `prune`.
        units: As in `prune`.
        compensate: As in `prune`.
        shots: As in `prune`.
        calibration: Calibration TEXTs.
        calibration_tokens: Number of calibration tokens.
        seed: Seed that draws the calibration windows.
    """

    method: str
    ratio: float
    allocation: str = "uniform"
    units: tuple[str, ...] = ()
    compensate: bool = False
    shots: int = 1
    calibration: tuple[str, ...] = ("demo:sotu",)
    calibration_tokens: int = 16384
    seed: int = 0


class Evaluation(TypedDict):
    """Perplexity on each text by name, and their geometric mean."""

    perplexities: dict[str, float]
    perplexity: float


class Row(Evaluation):
    """A measured model: what was asked for, its remaining parameters, and its perplexity."""

    cut: dict[str, object]
    parameters: int


class Study:
    """Measures cuts of a model.

    Args:
        model: Any MODEL.
        texts: TEXTs to evaluate on, by name.
        windows: Number of windows of 512 tokens of each text.
        scratch: Directory for scores and pruned models.
        results: The JSON lines file.
    """

    def __init__(self, model: str, texts: dict[str, str], windows: int, scratch: Path, results: Path) -> None:
        self.model, self.windows, self.scratch, self.results = model, windows, scratch, results
        self._texts = {name: read_text(text, "evaluation") for name, text in texts.items()}
        self._known: dict[str, Row] = {}
        self._calibrations: dict[tuple[tuple[str, ...], int, int], torch.Tensor] = {}
        if results.exists():
            for line in results.read_text().splitlines():
                row = json.loads(line)
                self._known[json.dumps(row["cut"])] = row

    def dense(self) -> Row:
        """The row of the uncut model."""
        return self._measured(None)

    def cut(self, cut: Cut) -> Row:
        """The row of a cut."""
        return self._measured(cut)

    def _measured(self, cut: Cut | None) -> Row:
        asked: dict[str, object] = {"model": self.model, "windows": self.windows}
        if cut:
            # Texts by name: their location doesn't matter, and isn't published.
            asked |= asdict(cut) | {"calibration": [Path(text).name for text in cut.calibration]}
        key = json.dumps(asked)
        if key not in self._known:
            logger.info(f"{cut or self.model}")
            checkpoint = self._prune(cut) if cut else Checkpoint.open(resolve_model(self.model))
            row: Row = {
                "cut": json.loads(key),
                "parameters": costs.parameters(checkpoint.plan),
                **self._evaluate(checkpoint),
            }
            self._known[key] = row
            with self.results.open("a") as file:
                file.write(json.dumps(row) + "\n")
            if cut:
                shutil.rmtree(checkpoint.path)
        return self._known[key]

    def _prune(self, cut: Cut) -> Checkpoint:
        source = Checkpoint.open(resolve_model(self.model))
        text = list(cut.calibration)
        windows = self._windows(source, cut)
        # With one shot, scores are those of the uncut model, whatever the cut.
        of_scores = [self.model, cut.method, cut.allocation, text, cut.calibration_tokens, cut.seed]
        of_scores += [] if cut.shots == 1 else [cut.ratio, cut.shots, cut.units]
        name = hashlib.sha256(json.dumps(of_scores).encode()).hexdigest()[:16]
        journal = Journal(self.scratch / f"scores-{name}")
        run = Pruning(LayerwiseModel(source, windows), find_method(cut.method), journal, cut.seed)
        target = run.allocate(
            PruneOptions(ratio=cut.ratio, allocation=cut.allocation, units=list(cut.units), shots=cut.shots)
        )
        run.shoot(target.plan, cut.shots)
        if cut.compensate:
            with tempfile.TemporaryDirectory(dir=self.scratch) as own:
                run.compensate(Journal(Path(own)))
        tensors = pruned_tensors(source, run.selections, run.model.replaced)
        output = self.scratch / f"pruned-{name}"
        return write_checkpoint(source, target.plan, tensors, {}, output, force=True)

    def _windows(self, source: Checkpoint, cut: Cut) -> torch.Tensor:
        key = (cut.calibration, cut.calibration_tokens, cut.seed)
        if key not in self._calibrations:
            options = CalibrationOptions(
                calibration=list(cut.calibration), calibration_tokens=cut.calibration_tokens, seed=cut.seed
            )
            self._calibrations[key] = read_calibration(source, options).windows
        return self._calibrations[key]

    def _evaluate(self, checkpoint: Checkpoint) -> Evaluation:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        # In the stored dtype, which is the same for all models that are compared.
        model = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
        figures = {
            name: perplexity(model, tokenizer, text, max_windows=self.windows)["perplexity"]
            for name, text in self._texts.items()
        }
        mean = sum(math.log(figure) for figure in figures.values()) / len(figures)
        return {"perplexities": figures, "perplexity": math.exp(mean)}


def try_cut(study: Study, cut: Cut) -> Row | None:
    """The row of a cut, or None if these units can't be cut that far."""
    try:
        return study.cut(cut)
    except UsageError as error:
        logger.info(f"{cut.method} at {cut.ratio:.0%}: {error.message}")
        return None
