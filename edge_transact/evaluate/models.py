"""Perplexity of checkpoints, through transformers, and of DISTs, through their host libraries, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_transact.evaluate.perplexity import PerplexityResult, perplexity
from edge_transact.progress import step


def evaluate_models(
    models: Sequence[str], *, text: str, window: int = 512, max_windows: int | None = None
) -> list[dict[str, Any]]:
    """What ``eval --json`` prints for each of `models`, each a MODEL or a DIST.

    Args:
        models: At least one.
        text: A TEXT.
        window: Tokens of a window.
        max_windows: The first so many windows only.

    Raises:
        EdgeTransactError: A model or the text can't be read, or the text is shorter than a window.
    """
    from edge_transact.inputs import read_text

    document = read_text(text, "evaluation")
    results = []
    for name in models:
        step(f"{name} on {text}")
        result = evaluate_model(name, document, window=window, max_windows=max_windows)
        results.append({"model": name, "text": text, **asdict(result)})
    return results


def evaluate_model(model: str, document: str, *, window: int = 512, max_windows: int | None = None) -> PerplexityResult:
    """Perplexity of a MODEL, computed in float32, or of a DIST, computed as its host library does.

    Args:
        model: The MODEL or DIST.
        document: The text itself.
        window: As in `perplexity`.
        max_windows: As in `perplexity`.
    """
    from edge_transact.runtime.text import TextCodec

    directory = Path(model)
    if (directory / "manifest.json").is_file():
        from edge_transact.runtime.host import HostModel

        library = HostModel.load(directory)
        tokenizer = TextCodec(directory).tokenizer
        return perplexity(library.window_logits, tokenizer, document, window=window, max_windows=max_windows)

    import torch
    from transformers import AutoModelForCausalLM

    from edge_transact.checkpoint import Checkpoint
    from edge_transact.inputs import resolve_model

    directory = Checkpoint.open(resolve_model(model)).path
    network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = TextCodec(directory).tokenizer
    return perplexity(network, tokenizer, document, window=window, max_windows=max_windows)
