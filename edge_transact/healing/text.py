"""Texts as an endless stream of sequences, which follows from the texts, the length and the seed.

A text is cut into pieces (`inputs.pieces`), some of which are held out. An epoch reads the others in a new order. Their
tokens follow each other without padding, and sequences leave in a random order out of a buffer of `BUFFER_TOKENS`;
nothing else is kept in memory. Tokens at the end of an epoch that don't fill a sequence are left out.

``self`` is slow to write, and its rows are drawn independently: its pieces keep their order, and the buffer holds two.

A text of few pieces, or whose held-out pieces don't fill a sequence, is read in its own order in each epoch, and some
of its sequences are held out.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError
from edge_transact.inputs.pieces import FilePiece, HeldPiece, Part, pieces_of
from edge_transact.inputs.rows import Chat, Row, plain
from edge_transact.inputs.shares import Share, dealt, shares_of
from edge_transact.runtime.chat_template import render_chat
from edge_transact.runtime.text import TextCodec
from edge_transact.selftext.texts import SELF, SelfPiece, self_pieces
from edge_transact.selftext.writing import end_of_document

HELD_OUT_EVERY = 32
"""Of the pieces of a text, one in this many is held out, and at least one."""

LEAST_PIECES = 16
"""Of a text with fewer pieces, one in this many sequences is held out instead."""

MOST_HELD_OUT = 64
"""Held-out sequences of all texts together; the rest of what is held out is not used at all."""

BUFFER_TOKENS = 1 << 18
"""Tokens of a text among which sequences are shuffled."""

ASSISTANT = "assistant"


@dataclass(frozen=True)
class Encoded:
    """A row as tokens, int32 ``[tokens]``, and which of them count as ones to predict, bool ``[tokens]``."""

    ids: np.ndarray
    counted: np.ndarray


class Encoder:
    """Turns rows into tokens with a model's tokenizer and chat template.

    A document ends with the token that ends documents; of one in parts, the last part does. Of a chat, the answers and
    their ends count, but not the template, the questions, the system prompt, and an assistant's message before
    everything else. Without a chat template, a chat is plain text.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._codec = TextCodec(checkpoint.path)
        self._end = end_of_document(self._codec)

    def __call__(self, row: Row | Part | np.ndarray) -> Encoded:
        """Encodes a row, or a part of a document.

        Raises:
            EdgeTransactError: It has tokens outside the model's vocabulary, or the template refuses the chat.
        """
        if isinstance(row, np.ndarray):  # a row of ``self``
            return Encoded(row, np.ones(len(row), bool))
        if isinstance(row, Chat) and self._template:
            try:
                return self._chat(row)
            except EdgeTransactError as error:
                raise EdgeTransactError(f"{row.where}: {error.message}", fix=error.fix) from error
        part = row if isinstance(row, Part) else Part(plain(row), begins=True, ends=True)
        # BOS is what the tokenizer adds.
        ids = self._codec.backend.encode(part.text, add_special_tokens=part.begins).ids
        return self._checked([*ids, self._end] if part.ends and self._end is not None else ids)

    @property
    def has_chat_template(self) -> bool:
        return self._template is not None

    @cached_property
    def _template(self) -> str | None:
        return self._codec.chat_template

    def _chat(self, chat: Chat) -> Encoded:
        assert self._template is not None
        special = self._codec.special_tokens
        text = render_chat(self._template, chat.messages, special, answers_next=False)
        encoding = self._codec.backend.encode(text, add_special_tokens=False)
        answers = np.zeros(len(text) + 1, bool)
        for number, (role, _) in enumerate(chat.turns):
            # Templates may refuse a chat of no messages, or begin it in another way: the first message has no start.
            if role != ASSISTANT or not number:
                continue
            before = render_chat(self._template, chat.messages[:number], special)
            after = render_chat(self._template, chat.messages[: number + 1], special, answers_next=False)
            # Templates may treat the last message in another way; what both texts share is certain.
            start, stop = _shared(before, text), _shared(after, text)
            answers[start:stop] = True
        counted = np.array([start < stop and answers[start] for start, stop in encoding.offsets], bool)
        return self._checked(encoding.ids, counted)

    def _checked(self, ids: list[int], counted: np.ndarray | None = None) -> Encoded:
        array = np.array(ids, np.int32)
        if len(array) and array.max() >= self._checkpoint.plan.vocab_size:
            raise EdgeTransactError(
                f"the tokenizer makes token {array.max()}, the model's vocabulary has "
                f"{self._checkpoint.plan.vocab_size}",
                fix="Use the tokenizer that belongs to the model.",
            )
        return Encoded(array, np.ones(len(array), bool) if counted is None else counted)


def _shared(first: str, second: str) -> int:
    if second.startswith(first):
        return len(first)
    return next(at for at, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1])


@dataclass(frozen=True)
class Sequence:
    """Tokens to train on, int64 ``[length]``, and whose predictions count, bool ``[length]``; the first is never
    predicted."""

    ids: torch.Tensor
    counted: torch.Tensor


_Piece = HeldPiece | FilePiece | SelfPiece


class TrainingText:
    """The sequences, of `length` tokens, of TEXTs with ``=WEIGHT`` or without, each in proportion to its weight.

    ``self`` is written by the model, or by the one that it was pruned from if that is on this machine. The model has
    the tokenizer, the chat template and the vocabulary.

    Raises:
        EdgeTransactError: A text can't be read, is too short for one sequence to train on and one to hold out, has
            nothing that counts, or has tokens outside the model's vocabulary.
    """

    def __init__(self, checkpoint: Checkpoint, texts: Several[str], *, length: int, seed: int) -> None:
        encoder = Encoder(checkpoint)
        self._length, self._seed = length, seed
        self._shares = shares_of(texts, for_chats=encoder.has_chat_template)
        self._streams = [
            _Stream(checkpoint, share, encoder, length, f"{seed}, text {number}")
            for number, share in enumerate(self._shares)
        ]
        weights = [share.weight for share in self._shares]
        most = max(MOST_HELD_OUT, len(texts))
        wanted = [max(1, count) for count in dealt([math.inf] * len(weights), weights, most)]
        held_out = [
            part for stream, count in zip(self._streams, wanted, strict=True) for part in stream.held_out(count)
        ]
        self.held_out = torch.stack([part.ids for part in held_out])
        self.held_out_counted = torch.stack([part.counted for part in held_out])

    def to_dict(self) -> dict[str, Any]:
        sources = [
            {"text": share.text, "weight": share.weight, "sha256": stream.digest, "bytes": stream.nbytes}
            for share, stream in zip(self._shares, self._streams, strict=True)
        ]
        return {"sources": sources, "length": self._length, "seed": self._seed}

    def sequences(self, first: int = 0) -> Iterator[Sequence]:
        """Sequence number `first` and all that follow, endlessly. Those before it are read and tokenized again.

        Raises:
            EdgeTransactError: A file is gone or has changed, or a row has no text.
        """
        weights = [share.weight for share in self._shares]
        given = dealt([math.inf] * len(weights), weights, first)
        streams = [stream.sequences(count) for stream, count in zip(self._streams, given, strict=True)]
        while True:
            # The text that is furthest behind its weight is next, as in `dealt`.
            index = min(range(len(weights)), key=lambda index: (given[index] + 1) / weights[index])
            given[index] += 1
            yield next(streams[index])


class _Stream:
    """The sequences of one text, with the digest and the bytes of its content (of ``self``, 0)."""

    def __init__(self, checkpoint: Checkpoint, share: Share, encoder: Encoder, length: int, seed: str) -> None:
        self._text, self._encoder, self._length, self._seed = share.text, encoder, length, seed
        pieces: Several[_Piece]
        if share.text == SELF:
            written, self.digest = self_pieces(checkpoint)
            pieces, self.nbytes, self._buffer_tokens = written, 0, 2 * written[0].tokens
        else:
            pieces, self.digest, self.nbytes = pieces_of(share.text, "calibration")
            self._buffer_tokens = BUFFER_TOKENS
        every = min(HELD_OUT_EVERY, len(pieces))
        self._trained_on = [piece for number, piece in enumerate(pieces) if number % every != every // 2]
        self._held_out = pieces[every // 2 :: every]
        self._in_order: Several[_Piece] = []
        if len(pieces) < LEAST_PIECES or not self._fills(self._trained_on) or not self._fills(self._held_out):
            self._in_order = pieces
            if not self._fills(pieces, 2):
                raise self._too_short()

    def _fills(self, pieces: Several[_Piece], sequences: int = 1) -> bool:
        return len(list(itertools.islice(self._packed(pieces), sequences))) == sequences

    def _too_short(self) -> EdgeTransactError:
        tokens = counted = 0
        for encoded in self._encoded(self._in_order):
            tokens += len(encoded.ids)
            counted += int(encoded.counted.sum())
        if not tokens:
            return EdgeTransactError(f"{self._text} holds no text", fix="Name a text that isn't empty.")
        if not counted:
            return EdgeTransactError(
                f"{self._text} has {tokens} tokens, none of which counts: its chats have no answers",
                fix='Give the answers the role "assistant", after a question.',
            )
        return EdgeTransactError(
            f"{self._text} has {counted} tokens that count: too few for a sequence of {self._length} to train on and "
            "one to hold out",
            fix="Give a longer text, or a smaller --train-window.",
        )

    def held_out(self, count: int) -> list[Sequence]:
        """The first held-out sequences, at most `count`."""
        found = self._every(held_out=True) if self._in_order else self._packed(self._held_out)
        return list(itertools.islice(found, count))

    def sequences(self, skip: int) -> Iterator[Sequence]:
        """The sequences to train on, endlessly, after the first `skip` ones."""
        for epoch in itertools.count():
            draw = random.Random(f"{self._seed}, epoch {epoch}")
            if self._in_order:
                found = self._every(held_out=False)
            elif self._text == SELF:
                found = self._packed(self._trained_on)
            else:
                found = self._packed(draw.sample(self._trained_on, len(self._trained_on)))
            while buffer := list(itertools.islice(found, max(1, self._buffer_tokens // self._length))):
                draw.shuffle(buffer)
                yield from buffer[skip:]
                skip -= min(skip, len(buffer))

    def _every(self, *, held_out: bool) -> Iterator[Sequence]:
        """Of a text in its own order, the sequences that are held out, or the others."""
        for number, sequence in enumerate(self._packed(self._in_order)):
            if (number % LEAST_PIECES == 0) == held_out:
                yield sequence

    def _packed(self, pieces: Iterable[_Piece]) -> Iterator[Sequence]:
        """The tokens of the pieces, cut into sequences; those in which nothing counts are left out."""
        ids, counted = np.empty(0, np.int32), np.empty(0, bool)
        for encoded in self._encoded(pieces):
            ids, counted = np.concatenate([ids, encoded.ids]), np.concatenate([counted, encoded.counted])
            whole = len(ids) // self._length * self._length
            for start in range(0, whole, self._length):
                part = slice(start, start + self._length)
                predicted = torch.from_numpy(counted[part].copy())
                predicted[0] = False  # nothing predicts the first token
                if predicted.any():
                    yield Sequence(torch.from_numpy(ids[part].astype(np.int64)), predicted)
            ids, counted = ids[whole:], counted[whole:]

    def _encoded(self, pieces: Iterable[_Piece]) -> Iterator[Encoded]:
        return (self._encoder(row) for piece in pieces for row in piece.rows())
