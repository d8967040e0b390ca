"""Calibration text as token windows, drawn with a seed."""

from __future__ import annotations

import hashlib
import random
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.inputs.texts import read_text

DEFAULT_TEXT = "demo:sotu"
DEFAULT_TOKENS = 16384
WINDOW = 512
"""Tokens of a window, or the model's context where that is shorter."""


@dataclass(frozen=True)
class Calibration:
    """Windows of calibration text.

    Attributes:
        windows: int64, ``[windows, window]``.
        text: The TEXT that they come from.
        text_sha256: Of its UTF-8 bytes.
        tokens: Tokens in all windows.
        window: Tokens of one.
        seed: What the windows were drawn with.
    """

    windows: torch.Tensor = field(repr=False)
    text: str
    text_sha256: str
    tokens: int
    window: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """All but the windows themselves."""
        return {name: value for name, value in asdict(self).items() if name != "windows"}


def read_calibration(checkpoint: Checkpoint, text: str, *, tokens: int = DEFAULT_TOKENS, seed: int = 0) -> Calibration:
    """Draws windows from a text: tokenized whole, cut into windows that don't overlap, a sample of them in order.

    Args:
        checkpoint: The model, for its tokenizer, context length and vocabulary.
        text: Any TEXT.
        tokens: How many tokens to draw, rounded down to whole windows; a shorter text is used whole.
        seed: Which windows.

    Raises:
        UsageError: `tokens` is less than a window.
        EdgeTransactError: The text is shorter than a window, can't be read, or has ids that the model doesn't know.
    """
    from transformers import AutoTokenizer

    window = min(WINDOW, checkpoint.config.get("max_position_embeddings") or WINDOW)
    if tokens < window:
        raise UsageError(f"--calibration-tokens {tokens} is less than a window of {window}", fix="Give more.")
    content = read_text(text, "calibration")
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path)
    except (OSError, ValueError) as error:
        raise EdgeTransactError(
            f"{checkpoint.path} has no tokenizer that loads: {error}", fix="Copy the model's tokenizer files there."
        ) from error
    # `verbose`: no warning that the text is longer than the model's context; it is cut into windows.
    ids = torch.tensor(tokenizer(content, verbose=False)["input_ids"])
    if len(ids) < window:
        raise EdgeTransactError(
            f"the calibration text {text} has {len(ids)} tokens, fewer than a window of {window}",
            fix="Give a longer text.",
        )
    if ids.max() >= checkpoint.plan.vocab_size:
        raise EdgeTransactError(
            f"the tokenizer makes token {ids.max()}, the model's vocabulary has {checkpoint.plan.vocab_size}",
            fix="Use the tokenizer that belongs to the model.",
        )
    available = len(ids) // window
    chosen = sorted(random.Random(seed).sample(range(available), min(tokens // window, available)))
    return Calibration(
        windows=ids[: available * window].view(available, window)[chosen],
        text=text,
        text_sha256=hashlib.sha256(content.encode()).hexdigest(),
        tokens=len(chosen) * window,
        window=window,
        seed=seed,
    )
