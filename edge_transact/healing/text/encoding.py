"""Documents and chats as tokens, and which of the tokens count."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError
from edge_transact.inputs.pieces import Part
from edge_transact.inputs.rows import Chat, Row, plain
from edge_transact.runtime.chat_template import render_chat
from edge_transact.runtime.text import TextCodec
from edge_transact.selftext.writing import end_of_document

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
    """The number of characters with which both texts begin."""
    if second.startswith(first):
        return len(first)
    return next(at for at, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1])
