"""Calibration text as token windows, drawn with a seed, from one text or from several."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edge_transact.artifacts.digests import files_digest
from edge_transact.artifacts.dist_files import TOKENIZER_FILES
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.auto_classes import register
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.inputs.pieces import Part, pieces_of
from edge_transact.inputs.rows import Row, plain
from edge_transact.inputs.shares import Share, dealt, shares_of
from edge_transact.inputs.texts import DOCUMENT_SEPARATOR, SURELY, is_whole, needed_characters, read_rows
from edge_transact.layerwise.options import CalibrationOptions
from edge_transact.runtime.chat_template import render_row
from edge_transact.runtime.text import load
from edge_transact.selftext.texts import SELF, self_tokens
from edge_transact.system.memory import trim

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

WINDOW = 512
"""Tokens in a window, unless the model's context is shorter."""

REPEATED = 0.9
"""A larger share of one token isn't text. The most frequent token of English has 8 %."""

FOREIGN = 0.05
"""A larger share of tokens that are unknown or only part of a character is a script that the tokenizer doesn't know.

SmolLM2's tokenizer gives 0 % for English, 8 % for Russian and 77 % for Chinese.
"""


@dataclass(frozen=True)
class Source:
    """One calibration text without its weight, and how many tokens were drawn from it.

    `sha256` is that of its UTF-8 bytes, documents joined and chats as plain text; of ``self``, that of the tokens.
    """

    text: str
    sha256: str
    tokens: int


@dataclass(frozen=True)
class Calibration:
    """Windows of calibration text, int64 ``[windows, window]``: those of the first source, then those of the second."""

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


def split(windows: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The windows without some that are evenly spaced, and these: so many tokens, but at most half of all windows.

    Raises:
        UsageError: There is only one window.
    """
    count = min(max(1, tokens // windows.shape[1]), len(windows) // 2)
    if not count:
        raise UsageError(
            "a single window of text can't be split", fix="Give more --calibration-tokens or --search-tokens."
        )
    held_out = torch.zeros(len(windows), dtype=torch.bool)
    held_out[(2 * torch.arange(count) + 1) * len(windows) // (2 * count)] = True
    return windows[~held_out], windows[held_out]


def read_calibration(checkpoint: Checkpoint, options: CalibrationOptions) -> Calibration:
    """Draws windows that don't overlap from texts: a random sample of each, in the order of the text.

    Windows are dealt out one at a time to the text that is furthest behind its weight; what a short text can't give
    goes to the others. Tokens are rounded down to complete windows. ``joined`` packing tokenizes a text as one, so that
    windows can span documents; ``documents`` tokenizes each, and drops the tokens at its end that don't fill a window.

    Raises:
        UsageError: A window is longer than the model's context, or the tokens are less than a window for each text.
        EdgeTransactError: A text is shorter than a window, can't be read, repeats one token, or has ids outside the
            model's vocabulary.
    """
    tokens, window, tokenizer, texts = _asked(checkpoint, options)
    rows = [[] if text.text == SELF else _rows(text.text, tokens, options.seed) for text in texts]
    pools = [
        None if text.text == SELF else _windows(text.text, tuple(of_text), tokenizer, window, options.packing)
        for text, of_text in zip(texts, rows, strict=True)
    ]
    available = [math.inf if pool is None else len(pool) for pool in pools]
    shares = dealt(available, [text.weight for text in texts], tokens // window)
    if sum(shares) < tokens // window:
        logger.info(
            f"The calibration text has {sum(shares) * window} tokens in windows of {window}, all of which are used."
        )
    draw = random.Random(options.seed)
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
    return Calibration(drawn, tuple(sources), options.packing, options.seed)


def check_calibration(checkpoint: Checkpoint, options: CalibrationOptions) -> None:
    """Raises what `read_calibration` raises of missing or short texts, for which it doesn't tokenize long ones."""
    tokens, window, tokenizer, texts = _asked(checkpoint, options)
    for text in (share.text for share in texts if share.text != SELF):
        rows = _rows(text, tokens, options.seed)
        characters = (sum if options.packing == "joined" else max)(len(plain(row)) for row in rows)
        if characters < SURELY * window:
            _windows(text, tuple(rows), tokenizer, window, options.packing)


def _asked(
    checkpoint: Checkpoint, options: CalibrationOptions
) -> tuple[int, int, PreTrainedTokenizerBase, list[Share]]:
    """The tokens to draw, those of a window, the tokenizer and the texts. Raises if a text would get no window."""
    tokens, window = options.calibration_tokens, window_of(checkpoint, options.calibration_window)
    files = [path for path in map(checkpoint.path.joinpath, TOKENIZER_FILES) if path.is_file()]
    tokenizer = _tokenizer(checkpoint.path, files_digest(files))
    texts = shares_of(options.calibration, for_chats=tokenizer.chat_template is not None)
    if tokens < window * len(texts):
        each = f" for each of {len(texts)} texts" if len(texts) > 1 else ""
        raise UsageError(f"--calibration-tokens {tokens} is less than a window of {window}{each}", fix="Give more.")
    return tokens, window, tokenizer, texts


def check_text(text: str, windows: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warns if the tokenizer doesn't know the script of a text, from the tokens that were drawn from it (any shape).

    Raises:
        EdgeTransactError: Nearly all tokens are the same.
    """
    ids, counts = windows.unique(return_counts=True)
    shares = dict(zip(ids.tolist(), (counts / windows.numel()).tolist(), strict=True))
    frequent = max(shares, key=lambda token: shares[token])
    if shares[frequent] > REPEATED:
        raise EdgeTransactError(
            f"{shares[frequent]:.0%} of the calibration text {text} is the token {tokenizer.decode([frequent])!r}",
            fix="Calibrate on text like the model's input: a repeated token says nothing about the others.",
        )
    foreign = sum(
        share
        for token, share in shares.items()
        # Part of a character decodes to U+FFFD.
        if token == tokenizer.unk_token_id or "\ufffd" in tokenizer.decode([token])
    )
    if foreign > FOREIGN:
        logger.warning(
            f"{foreign:.0%} of the tokens of the calibration text {text} are unknown to the model's tokenizer, or only "
            "a part of a character: it wasn't made for this script. Calibrate on text like the model's input."
        )


def _rows(text: str, tokens: int, seed: int) -> Sequence[Row]:
    """A text's rows; of a large text, those of pieces of it, drawn with a seed, that surely hold so many tokens."""
    needed = needed_characters(tokens)
    if not text.startswith("demo:"):
        pieces, _, nbytes = pieces_of(text, "calibration")
        if not is_whole(nbytes, tokens):
            count = max(1, len(pieces) * needed // nbytes)
            drawn = [pieces[number] for number in sorted(random.Random(seed).sample(range(len(pieces)), count))]
            rows, left = [], needed  # the rows of a piece may end far behind it
            for row in itertools.chain.from_iterable(piece.rows() for piece in drawn):
                rows.append(row.text if isinstance(row, Part) else row)
                if (left := left - len(plain(rows[-1]))) < 0:
                    break
            rows = [row for row in rows if plain(row).strip()]
            return rows or read_rows(text, "calibration", needed)
    return read_rows(text, "calibration")


def window_of(checkpoint: Checkpoint, window: int | None, flag: str = "--calibration-window") -> int:
    """Tokens of a window, given what was asked for; raises `UsageError` below 2 or above the model's context."""
    context = checkpoint.config.get("max_position_embeddings")
    if window is None:
        return min(WINDOW, context or WINDOW)
    if window < 2:
        raise UsageError(f"{flag} {window} is less than 2", fix="A token predicts the next one.")
    if context and window > context:
        raise UsageError(f"{flag} {window} is more than the model's context of {context}", fix="Give less.")
    return window


@functools.lru_cache(maxsize=4)
def _tokenizer(path: Path, _digest: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint. While its files have this digest, it is the same object."""
    register()
    from transformers import AutoTokenizer

    return load(AutoTokenizer, path)


@functools.lru_cache(maxsize=4)
def _windows(
    text: str, rows: tuple[Row, ...], tokenizer: PreTrainedTokenizerBase, window: int, packing: str
) -> torch.Tensor:
    """All windows of a text, int64 ``[windows, window]``; cached, because tokenizing takes seconds."""
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
        return render_row(tokenizer, row.messages)
    except EdgeTransactError as error:
        raise EdgeTransactError(f"a conversation of the text: {error.message}", fix=error.fix) from error
