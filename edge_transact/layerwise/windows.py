"""Calibration text as token windows, drawn with a seed, from one text or from several."""

from __future__ import annotations

import functools
import hashlib
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError

from edge_transact.artifacts.digests import files_digest
from edge_transact.artifacts.dist_files import TOKENIZER_FILES
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.auto_classes import register
from edge_transact.errors import EdgeTransactError, UsageError, did_you_mean
from edge_transact.inputs.rows import Row, plain
from edge_transact.inputs.shares import dealt, share_of, shares_of
from edge_transact.inputs.texts import DOCUMENT_SEPARATOR, read_rows
from edge_transact.layerwise.options import PACKINGS, CalibrationOptions
from edge_transact.layerwise.suitability import check_text
from edge_transact.selftext.texts import SELF, self_tokens
from edge_transact.system.memory import trim

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

DEFAULTS = CalibrationOptions()
WINDOW = 512
"""Tokens in a window, unless the model's context is shorter."""


@dataclass(frozen=True)
class Source:
    """One calibration text.

    Attributes:
        text: The TEXT, without its weight.
        sha256: The digest of its UTF-8 bytes, documents joined, with chats as plain text; of ``self``, of the tokens.
        tokens: The number of tokens drawn from it.
    """

    text: str
    sha256: str
    tokens: int


@dataclass(frozen=True)
class Calibration:
    """Windows of calibration text.

    Attributes:
        windows: int64, ``[windows, window]``; the windows of the first text, then those of the second, ...
        sources: The texts that they come from.
        packing: One of `PACKINGS`.
        seed: The seed that the windows were drawn with.
    """

    windows: torch.Tensor = field(repr=False)
    sources: tuple[Source, ...]
    packing: str
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Everything except the windows' tokens, of which it gives the number per window and in total."""
        return {
            "sources": [asdict(source) for source in self.sources],
            "tokens": self.windows.numel(),
            "window": self.windows.shape[1],
            "packing": self.packing,
            "seed": self.seed,
        }


def texts_of(calibration: str | Sequence[str]) -> list[str]:
    """The TEXTs of a calibration as a list, without their weights."""
    given = [calibration] if isinstance(calibration, str) else calibration
    return [share_of(text).text for text in given]


def calibration_of(checkpoint: Checkpoint, options: CalibrationOptions) -> Calibration:
    """What `read_calibration` draws for these options."""
    return read_calibration(
        checkpoint,
        options.calibration,
        tokens=options.calibration_tokens,
        window=options.calibration_window,
        packing=options.packing,
        seed=options.seed,
    )


def read_calibration(
    checkpoint: Checkpoint,
    calibration: str | Sequence[str],
    *,
    tokens: int = DEFAULTS.calibration_tokens,
    window: int | None = None,
    packing: str = DEFAULTS.packing,
    seed: int = 0,
) -> Calibration:
    """Draws windows that don't overlap from texts: a random sample of each, in the order of the text.

    Args:
        checkpoint: The model, for its tokenizer, context length and vocabulary.
        calibration: Any TEXT, or several, each with a weight if it ends in ``=WEIGHT``. Windows are dealt out one at a
            time to the text that is furthest behind its weight, beginning with the first text: a remainder goes to the
            first texts, and what a short text can't give goes to the others.
        tokens: The number of tokens to draw from all texts together, rounded down to complete windows; if the texts are
            shorter, all of their windows are used.
        window: Tokens in a window; by default `WINDOW`, or the model's context if that is shorter.
        packing: ``joined`` tokenizes a text as one, so a window can span documents; ``documents`` tokenizes each
            document, and drops the tokens at its end that don't fill a window.
        seed: Chooses the windows.

    Raises:
        UsageError: A window is longer than the model's context, `tokens` is less than a window for each text, or the
            packing is unknown.
        EdgeTransactError: A text is shorter than a window, can't be read, repeats one token, or has ids outside the
            model's vocabulary.
    """
    texts = shares_of(calibration)
    if packing not in PACKINGS:
        raise UsageError(f"there is no packing {packing!r}", fix=did_you_mean(packing, PACKINGS))
    window = window_of(checkpoint, window)
    if tokens < window * len(texts):
        each = f" for each of {len(texts)} texts" if len(texts) > 1 else ""
        raise UsageError(f"--calibration-tokens {tokens} is less than a window of {window}{each}", fix="Give more.")
    files = [path for path in map(checkpoint.path.joinpath, TOKENIZER_FILES) if path.is_file()]
    tokenizer = _tokenizer(checkpoint.path, files_digest(files))
    rows = [[] if text.text == SELF else read_rows(text.text, "calibration") for text in texts]
    pools = [
        None if text.text == SELF else _windows(text.text, tuple(of_text), tokenizer, window, packing)
        for text, of_text in zip(texts, rows, strict=True)
    ]
    available = [math.inf if pool is None else len(pool) for pool in pools]
    shares = dealt(available, [text.weight for text in texts], tokens // window)
    if sum(shares) < tokens // window:
        logger.info(
            f"The calibration text has {sum(shares) * window} tokens in windows of {window}, all of which are used."
        )
    draw = random.Random(seed)
    windows, sources = [], []
    for text, of_text, pool, share in zip(texts, rows, pools, shares, strict=True):
        if not share:
            continue
        if pool is None:
            # The model writes no more than is asked for.
            chosen = self_tokens(checkpoint, share * window)[: share * window].view(share, window)
            digest = hashlib.sha256(chosen.numpy().tobytes()).hexdigest()
        else:
            chosen = pool[sorted(draw.sample(range(len(pool)), share))]
            digest = hashlib.sha256(DOCUMENT_SEPARATOR.join(map(plain, of_text)).encode()).hexdigest()
        check_text(text.text, chosen, tokenizer)
        windows.append(chosen)
        sources.append(Source(text.text, digest, chosen.numel()))
    drawn = torch.cat(windows)
    trim()
    if drawn.max() >= checkpoint.plan.vocab_size:
        raise EdgeTransactError(
            f"the tokenizer makes token {drawn.max()}, the model's vocabulary has {checkpoint.plan.vocab_size}",
            fix="Use the tokenizer that belongs to the model.",
        )
    return Calibration(drawn, tuple(sources), packing, seed)


def window_of(checkpoint: Checkpoint, window: int | None) -> int:
    """Tokens of a window, given what was asked for.

    Raises:
        UsageError: It is less than 2, or more than the model's context.
    """
    context = checkpoint.config.get("max_position_embeddings")
    if window is None:
        return min(WINDOW, context or WINDOW)
    if window < 2:
        raise UsageError(f"--calibration-window {window} is less than 2", fix="A token predicts the next one.")
    if context and window > context:
        raise UsageError(
            f"--calibration-window {window} is more than the model's context of {context}", fix="Give less."
        )
    return window


@functools.lru_cache(maxsize=4)
def _tokenizer(path: Path, _digest: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint. While its files have this digest, it is the same object."""
    register()
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise EdgeTransactError(
            f"{path} has no tokenizer that loads: {error}", fix="Copy the model's tokenizer files there."
        ) from error


@functools.lru_cache(maxsize=4)
def _windows(
    text: str, rows: tuple[Row, ...], tokenizer: PreTrainedTokenizerBase, window: int, packing: str
) -> torch.Tensor:
    """All windows of a text, int64 ``[windows, window]``.

    They are kept: tokenizing takes seconds, and a build that prunes and rounds, or a study, draws from a text again.
    """
    documents = [_document(row, tokenizer) for row in rows]
    are_chats = tokenizer.chat_template is not None and not any(isinstance(row, str) for row in rows)
    # Chats follow each other as the template ends and begins them.
    pieces = [("" if are_chats else DOCUMENT_SEPARATOR).join(documents)] if packing == "joined" else documents
    # `verbose=False`: no warning about texts longer than the model's context, since they are cut into windows.
    tokenized = tokenizer(pieces, verbose=False)["input_ids"]
    whole = [
        torch.tensor(ids[: len(ids) // window * window]).view(-1, window) for ids in tokenized if len(ids) >= window
    ]
    if not whole:
        what = "tokens" if packing == "joined" else "tokens in its longest document"
        raise EdgeTransactError(
            f"the calibration text {text} has {max(map(len, tokenized))} {what}, fewer than a window of {window}",
            fix="Give a longer text, or a smaller --calibration-window.",
        )
    return torch.cat(whole)


def _document(row: Row, tokenizer: PreTrainedTokenizerBase) -> str:
    """A row's text; a chat as the model's template writes it, or plainly if the model has none."""
    if isinstance(row, str) or tokenizer.chat_template is None:
        return plain(row)
    try:
        return str(tokenizer.apply_chat_template(row.messages, tokenize=False))
    except TemplateError as error:
        raise EdgeTransactError(
            f"the model's chat template refuses a conversation of the text: {error}",
            fix="Its chat_template defines which roles are allowed, and in which order.",
        ) from error
