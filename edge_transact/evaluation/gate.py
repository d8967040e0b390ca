"""The collapse gate behind commands that write a model: a dozen questions, and a warning if many aren't answered."""

from __future__ import annotations

import logging
from pathlib import Path

from edge_transact.artifacts.dist_files import MANIFEST
from edge_transact.costs import Requirements
from edge_transact.costs.memory import PACKAGES_BYTES, model_bytes
from edge_transact.errors import EdgeTransactError
from edge_transact.evaluation.answers.basics import ask
from edge_transact.evaluation.answers.collapse import CollapseFigures, figures_of, step_name, warning
from edge_transact.evaluation.answers.questions import quick_questions
from edge_transact.evaluation.models import load, load_step
from edge_transact.runtime.text import TextCodec
from edge_transact.system import memory
from edge_transact.widths import WidthPlan

logger = logging.getLogger(__name__)


def gate(model: Path) -> CollapseFigures | None:
    """Asks the model that a command has just written, and logs a warning if too many answers are unusable."""
    from edge_transact.checkpoint import Checkpoint

    in_library = (model / MANIFEST).is_file()
    if not is_asked(model, None if in_library else Checkpoint.open(model).plan):
        return None
    network, codec = load(str(model))
    try:
        replies = ask(network, codec, quick_questions(), step=step_name(model))
    except EdgeTransactError as error:  # a template that takes no such message, or a window that is too short
        logger.info(f"no questions to {model}: {error.message}")
        return None
    figures = figures_of([reply.to_dict() for reply in replies])
    if words := warning(model, figures):
        logger.warning(words)
    return figures


def is_asked(directory: Path, plan: WidthPlan | None) -> bool:
    """Whether a model is asked: it has a chat template, and in torch memory for it in fp32.

    Args:
        plan: The widths that torch computes; `None` for a host library.
    """
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
    requirements: Requirements, directory: Path, plan: WidthPlan, name: str | Path, *, in_library: bool = False
) -> Requirements:
    """A command's requirements with the steps of `gate` after its own, if the model will be asked."""
    if not is_asked(directory, None if in_library else plan):
        return requirements
    in_torch = 0 if in_library else PACKAGES_BYTES + model_bytes(plan)
    return requirements.then(Requirements([load_step(str(name)), step_name(name)], 0, in_torch, 0))
