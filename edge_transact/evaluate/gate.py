"""The collapse gate behind commands that write a model: asks it a dozen questions, and warns if it hardly answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from edge_transact.artifacts.dist_files import MANIFEST
from edge_transact.errors import EdgeTransactError
from edge_transact.evaluate.answers.collapse import CollapseFigures, collapse, step_name, warning
from edge_transact.evaluate.answers.questions import quick_questions
from edge_transact.evaluate.forecast import answers_s, load_steps, loaded_bytes
from edge_transact.evaluate.models import load
from edge_transact.progress import Step
from edge_transact.runtime.text import TextCodec
from edge_transact.system import memory
from edge_transact.widths import WidthPlan

logger = logging.getLogger(__name__)


def gate(model: Path, healable: str | Path | None = None) -> CollapseFigures | None:
    """Asks what a command has just written, and logs a warning if it hardly answers.

    Args:
        model: A checkpoint directory, or a DIST with a host library.
        healable: The checkpoint that the warning offers to train, if that isn't the model itself.

    Returns:
        What was found; `None` if the model isn't asked, see `is_asked`.
    """
    from edge_transact.checkpoint import Checkpoint

    in_library = (model / MANIFEST).is_file()
    if not is_asked(model, None if in_library else Checkpoint.open(model).plan):
        return None
    network, codec = load(str(model))
    figures = collapse(network, codec, step=step_name(model))
    if words := warning(model, figures, healable):
        logger.warning(words)
    return figures


def is_asked(directory: Path, plan: WidthPlan | None) -> bool:
    """Whether a model is asked: it has a chat template, and in torch memory for it in fp32.

    Args:
        directory: Where its tokenizer is.
        plan: The widths that torch computes; `None` for a host library.
    """
    try:
        chats = TextCodec(directory).has_chat_template
    except EdgeTransactError as error:
        logger.debug(f"no questions: {error.message}")
        return False
    if chats and plan is not None and not memory.fits(loaded_bytes(plan)):
        logger.info("no questions to the model: there is too little memory for it in torch")
        return False
    return chats


def gate_steps(plan: WidthPlan, name: str | Path, *, in_library: bool = False) -> Iterator[Step]:
    """The steps of `gate`.

    Args:
        plan: The model's widths.
        name: Its directory.
        in_library: Whether it is a DIST.
    """
    yield from load_steps(plan, str(name))
    yield Step(step_name(name), answers_s(plan, len(quick_questions()), in_library))
