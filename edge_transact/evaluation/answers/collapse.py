"""The collapse gate: how many of a dozen short questions get an unusable answer.

Perplexity says little about whether a model still answers: a pruned model of fair perplexity may repeat one word or the
prompt endlessly. A dozen answers of at most `MAX_TOKENS` tokens show that in seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from edge_transact.artifacts.dist_files import MANIFEST
from edge_transact.artifacts.manifest import Manifest
from edge_transact.cache.sources import source_of
from edge_transact.checkpoint.writer import PROVENANCE_FILE
from edge_transact.evaluation.answers.basics import AnswerRow
from edge_transact.evaluation.answers.degenerate import Degenerate
from edge_transact.evaluation.answers.questions import quick_questions
from edge_transact.quantization import QUANTIZATIONS

THRESHOLD = 1 / 4
"""A larger share is a warning. `docs/lab/degenerate-answers.md` has the measurements behind it."""

RECIPE = "--cross-entropy 0.3"
"""The options of `heal` that the README recommends, beside the quantization of the build."""

_WORDS: dict[Degenerate, tuple[str, str]] = {
    "loop": ("loop", "loops"),
    "copy": ("copy of the prompt", "copies of the prompt"),
    "endless": ("endless", "endless"),
    "empty": ("empty", "empty"),
}
"""What one and several such answers are called."""


class CollapseFigures(TypedDict):
    """What ``--json`` has as ``degenerate``: the share, and how many answers of each kind."""

    share: float
    questions: int
    loop: int
    copy: int
    endless: int
    empty: int


def figures_of(rows: Sequence[AnswerRow]) -> CollapseFigures:
    """The figures of the `quick_questions` among some answers."""
    quick = {question.text for question in quick_questions()}
    found = [row["degenerate"] for row in rows if row["question"] in quick]
    counts = Counter(kind for kind in found if kind)
    return CollapseFigures(
        share=counts.total() / len(found),
        questions=len(found),
        loop=counts["loop"],
        copy=counts["copy"],
        endless=counts["endless"],
        empty=counts["empty"],
    )


def described(figures: CollapseFigures) -> str:
    """The unusable answers in words: ``5 of 12: 3 loops, 2 endless``."""
    counts = [figures[kind] for kind in _WORDS]
    parts = [f"{count} {of[count > 1]}" for count, of in zip(counts, _WORDS.values(), strict=True) if count]
    return f"{sum(counts)} of {figures['questions']}" + (f": {', '.join(parts)}" if parts else "")


def beside(figures: CollapseFigures, before: CollapseFigures | None) -> str:
    """`described`, and how many there are of the model before it was changed."""
    return described(figures) + (f"; {described(before).partition(':')[0]} before" if before else "")


def warning(model: str | Path, figures: CollapseFigures) -> str | None:
    """What to say of a model whose share is above `THRESHOLD`, with the next command; otherwise `None`."""
    if figures["share"] <= THRESHOLD:
        return None
    checkpoint, quantization = _made_from(Path(model))
    rounded = f" --quant {quantization}" if quantization and QUANTIZATIONS[quantization].bits else ""
    against_loops = " --unlikelihood 0.5" if figures["loop"] else ""
    count, _, kinds = described(figures).partition(": ")
    options = f"{RECIPE}{rounded}{against_loops}"
    heal = f"heal {checkpoint} {options} -o {checkpoint.name}-healed" if checkpoint else "heal --help"
    return (
        f"{count} test answers of {model} are unusable: {kinds}. "
        f"Cut less, or train what was pruned: edge-transact {heal}"
    )


def _made_from(model: Path) -> tuple[Path | None, str]:
    """The pruned checkpoint that a model is or that a DIST was built from, if any, and the DIST's quantization."""
    quantization = ""
    if (model / MANIFEST).is_file():
        manifest = Manifest.read(model)
        model, quantization = Path(source_of(model / MANIFEST, manifest.source)), manifest.quantization
    return model if (model / PROVENANCE_FILE).is_file() else None, quantization


def step_name(model: str | Path) -> str:
    return f"questions to {Path(model).name}"
