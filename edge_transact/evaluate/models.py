"""Perplexity and tasks of checkpoints, through transformers, and of DISTs, through their host libraries."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_transact.artifacts.dist_files import MANIFEST
from edge_transact.evaluate.perplexity import PerplexityResult, perplexity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edge_transact.evaluate.tasks import Scores, Tasks
    from edge_transact.runtime.host import HostModel

logger = logging.getLogger(__name__)


def evaluate_models(
    models: Sequence[str],
    *,
    text: str,
    window: int = 512,
    max_windows: int | None = None,
    tasks: Tasks | None = None,
) -> list[dict[str, Any]]:
    """What ``eval --json`` prints for each of `models`, each a MODEL or a DIST.

    Args:
        models: At least one.
        text: A TEXT.
        window: Tokens of a window.
        max_windows: The first so many windows only.
        tasks: Also score these.

    Raises:
        EdgeTransactError: A model or the text can't be read, or the text is shorter than a window.
    """
    from edge_transact.inputs import read_text

    document = read_text(text, "evaluation")
    results = []
    for name in models:
        logger.info(f"{name} on {text}")
        model, tokenizer = _load(name)
        result = asdict(_perplexity(model, tokenizer, document, window, max_windows))
        scores: Scores = {}
        if tasks:
            logger.info(f"{name} on tasks")
            scores = tasks.scores(model, tokenizer)
        results.append({"model": name, "text": text, **result, "tasks": scores})
    return results


def evaluate_model(model: str, document: str, *, window: int = 512, max_windows: int | None = None) -> PerplexityResult:
    """Perplexity of a MODEL, computed in float32, or of a DIST, computed as its host library does.

    Args:
        model: The MODEL or DIST.
        document: The text itself.
        window: As in `perplexity`.
        max_windows: As in `perplexity`.
    """
    return _perplexity(*_load(model), document, window, max_windows)


def _load(model: str) -> tuple[PreTrainedModel | HostModel, Any]:
    """A MODEL's network or a DIST's host library, and its tokenizer."""
    from edge_transact.runtime.text import TextCodec

    directory = Path(model)
    if (directory / MANIFEST).is_file():
        from edge_transact.runtime.host import HostModel

        return HostModel.load(directory), TextCodec(directory).tokenizer

    import torch
    from transformers import AutoModelForCausalLM

    from edge_transact.checkpoint import Checkpoint
    from edge_transact.inputs import resolve_model

    directory = Checkpoint.open(resolve_model(model)).path
    network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    return network, TextCodec(directory).tokenizer


def _perplexity(
    model: PreTrainedModel | HostModel, tokenizer: Any, document: str, window: int, max_windows: int | None
) -> PerplexityResult:
    from edge_transact.runtime.host import HostModel

    network = model.window_logits if isinstance(model, HostModel) else model
    return perplexity(network, tokenizer, document, window=window, max_windows=max_windows)
