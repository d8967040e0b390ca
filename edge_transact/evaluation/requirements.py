"""What an evaluation does and needs: its steps and memory.

The collapse gate is behind commands that write a model: a dozen questions, and a warning if many aren't answered.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from edge_transact.artifacts.dist_files import MANIFEST, TOKENIZER_FILES
from edge_transact.artifacts.manifest import Manifest
from edge_transact.checkpoint.writer import MODEL_CARD, PROVENANCE_FILE, write_quality
from edge_transact.costs import Requirements
from edge_transact.costs.memory import PACKAGES_BYTES, logits_bytes, model_bytes
from edge_transact.errors import EdgeTransactError
from edge_transact.evaluation.answers.collapse import (
    THRESHOLD,
    CollapseFigures,
    beside,
    described,
    step_name,
    warning,
)
from edge_transact.evaluation.models import TEXT_STEP, checkpoint_of, is_dist, load_step, unusable_answers
from edge_transact.evaluation.options import EvalOptions
from edge_transact.evaluation.perplexity import TOKENS_STEP, perplexity_step
from edge_transact.runtime.text import TextCodec
from edge_transact.system import memory
from edge_transact.widths import WidthPlan

CHARACTERS_PER_TOKEN = 4


logger = logging.getLogger(__name__)


def plans_of(names: Iterable[str]) -> dict[str, WidthPlan]:
    """The widths of MODELs and DISTs by name, whose tokenizers are intact. MODELs are downloaded or converted."""
    return {name: _dist(Path(name)).plan if is_dist(name) else checkpoint_of(name).plan for name in names}


def _dist(path: Path) -> Manifest:
    manifest = Manifest.read(path)
    manifest.verify(path, *TOKENIZER_FILES)
    return manifest


def requirements(
    plans: Mapping[str, WidthPlan], models: Sequence[str], options: EvalOptions, window: int
) -> Requirements:
    """What `evaluate_models` does and needs, without tasks of lm-eval."""
    from edge_transact.inputs import read_text

    reference = options.reference
    text = read_text(options.text, "evaluation", options.max_windows and options.max_windows * window)
    windows = max(1, len(text) // CHARACTERS_PER_TOKEN // window)
    windows = min(windows, options.max_windows or windows)
    steps = [TEXT_STEP, *([load_step(reference)] if reference else [])]
    for name in models:
        steps += [*perplexity_steps(name), *([step_name(name)] if options.basics or _chats(name) else [])]
    needed = PACKAGES_BYTES + max(model_bytes(plans[name]) for name in models)
    needed += model_bytes(plans[reference]) if reference else 0
    needed += max(logits_bytes(plan, window, is_compared=reference is not None) for plan in plans.values())
    return Requirements(steps, windows * window * len(models), needed, 0)


def perplexity_steps(name: str, texts: int = 1) -> list[str]:
    return [load_step(name), *(TOKENS_STEP, perplexity_step(name)) * texts]


def _chats(name: str) -> bool:
    return TextCodec(Path(name) if is_dist(name) else checkpoint_of(name).path).has_chat_template


def asked(model: Path) -> CollapseFigures | None:
    """`unusable_answers` of a model that `is_asked`."""
    from edge_transact.checkpoint import Checkpoint

    in_library = (model / MANIFEST).is_file()
    return (
        unusable_answers(str(model)) if is_asked(model, None if in_library else Checkpoint.open(model).plan) else None
    )


def gate(model: Path, source: Path | None = None) -> CollapseFigures | None:
    """Asks the model that a command has just written, and logs a warning if too many answers are unusable.

    Its model card says it, beside those of the `source`, if it was asked. Loads neither that was asked before.
    """
    figures = asked(model)
    if not figures:
        return None
    before = asked(source) if source else None
    if (model / PROVENANCE_FILE).is_file() and (model / MODEL_CARD).is_file():  # a DIST has no card
        write_quality(model, {"unusable test answers": beside(figures, before)})
    if before and before["share"] > THRESHOLD:
        logger.warning(f"{described(before)} test answers of {source} itself are unusable: is it trained to chat?")
    elif words := warning(model, figures):
        logger.warning(words)
    return figures


def is_asked(directory: Path, plan: WidthPlan | None) -> bool:
    """Whether a model is asked: it has a chat template, and in torch (`plan`; `None` in a library) memory in fp32."""
    try:
        chats = TextCodec(directory).has_chat_template
    except EdgeTransactError as error:
        logger.debug(f"no questions: {error.message}")
        return False
    if chats and plan is not None and not memory.fits(model_bytes(plan)):
        logger.info("no questions to the model: there is too little memory for it in torch")
        return False
    return chats


def with_gate(
    requirements: Requirements, directory: Path, plan: WidthPlan, *names: str | Path, in_library: bool = False
) -> Requirements:
    """A command's requirements with the steps of `gate` after its own, if the model will be asked."""
    if not is_asked(directory, None if in_library else plan):
        return requirements
    in_torch = 0 if in_library else PACKAGES_BYTES + model_bytes(plan)
    steps = [step for name in names for step in (load_step(str(name)), step_name(name))]
    return requirements.then(Requirements(steps, 0, in_torch, 0))
