"""A conversation with a DIST's host library: prompts in, streamed text and timings out."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from edge_transact.artifacts.dist_files import CHAT_CONFIG
from edge_transact.artifacts.manifest import not_a_dist
from edge_transact.errors import EdgeTransactError, first_problem
from edge_transact.runtime.host import HostModel
from edge_transact.runtime.text import Message, TextCodec


class _ConversationTemplate(BaseModel):
    stop_token_ids: set[int]


class _ChatConfig(BaseModel):
    """The part of ``mlc-chat-config.json`` that a session reads."""

    conv_template: _ConversationTemplate


@dataclass(frozen=True)
class Answer:
    """An answer of the model, and how long it took.

    Attributes:
        text: The answer, without special tokens.
        tokens: Its token ids, without a stop token.
        prompt_tokens: Tokens of the prompt, including the chat template.
        prefill_s: Seconds to the first token.
        decode_s: Seconds of the tokens after the first.
        decode_steps: Number of tokens after the first, including a stop token.
    """

    text: str
    tokens: list[int]
    prompt_tokens: int
    prefill_s: float
    decode_s: float
    decode_steps: int

    @property
    def prefill_tok_s(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prefill_s

    @property
    def decode_tok_s(self) -> float | None:
        """Decoded tokens per second, without prefill's first token; `None` if there was no other."""
        return self.decode_steps / self.decode_s if self.decode_steps else None

    def to_dict(self) -> dict[str, object]:
        """What ``run --json`` prints."""
        return {
            "text": self.text,
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "prefill_s": self.prefill_s,
            "decode_s": self.decode_s,
            "prefill_tok_s": self.prefill_tok_s,
            "decode_tok_s": self.decode_tok_s,
        }


class Session:
    """One conversation. `load` starts it, `answer` adds a turn, and `reset` removes all turns.

    Args:
        model: The loaded library and weights.
        codec: The tokenizer and chat template.
        stop_token_ids: Ids that end an answer.
        max_tokens: The most tokens of an answer.
        temperature: Of sampling; 0 always takes the likeliest token.
        seed: Seed of sampling.
        raw: Continue the text without the chat template.
    """

    def __init__(
        self,
        model: HostModel,
        codec: TextCodec,
        *,
        stop_token_ids: set[int],
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        raw: bool = False,
    ) -> None:
        self.model = model
        self.codec = codec
        self.stop_token_ids = stop_token_ids
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.seed = seed
        self.plain = raw or not codec.has_chat_template
        self.messages: list[Message] = []

    @classmethod
    def load(cls, dist: Path, **options: Any) -> Session:
        """A session with the host library of a DIST; `options` are the constructor's.

        Raises:
            EdgeTransactError: It isn't a DIST, or has no host library.
        """
        config = dist / CHAT_CONFIG
        if not config.is_file():
            raise not_a_dist(dist, config.name)
        try:
            stop_token_ids = _ChatConfig.model_validate_json(config.read_bytes()).conv_template.stop_token_ids
        except ValidationError as error:
            raise EdgeTransactError(
                f"{config} cannot be read ({first_problem(error)})", fix="Correct it, or build the model again."
            ) from error
        return cls(HostModel.load(dist), TextCodec(dist), stop_token_ids=stop_token_ids, **options)

    def reset(self) -> None:
        """Removes all turns."""
        self.messages.clear()

    def answer(self, text: str, *, on_text: Callable[[str], None] | None = None) -> Answer:
        """The model's answer to `text`, after the turns before it.

        Args:
            text: The user's message, or the text to continue.
            on_text: Called with each piece of the answer when it is decoded.

        Raises:
            EdgeTransactError: The prompt is empty, or leaves no room in the context window.
        """
        pieces = self.stream(text)
        while True:
            try:
                piece = next(pieces)
            except StopIteration as end:
                return end.value
            if on_text:
                on_text(piece)

    def stream(self, text: str) -> Generator[str, None, Answer]:
        """The answer piece by piece, as each is decoded: ``for piece in session.stream("Hello"): ...``.

        Args:
            text: The user's message, or the text to continue.

        Yields:
            Text.

        Returns:
            The whole answer, as a generator returns.

        Raises:
            EdgeTransactError: The prompt is empty, or leaves no room in the context window.
        """
        if self.plain:
            ids = self.codec.encode(text)
        else:
            self.messages.append({"role": "user", "content": text})
            ids = self.codec.encode_chat(self.messages)
        if not ids:
            raise EdgeTransactError("the prompt is empty", fix='Say something: --prompt "Once upon a time"')
        stream, pieces, tokens, times = self.codec.stream(), [], [], [time.perf_counter()]
        self.model.reset()
        for token in self.model.generate(ids, self.max_tokens, temperature=self.temperature, seed=self.seed):
            times.append(time.perf_counter())
            if token in self.stop_token_ids:
                break
            tokens.append(token)
            if piece := stream.push(token):
                pieces.append(piece)
                yield piece
        answer = "".join(pieces)
        if not self.plain:
            self.messages.append({"role": "assistant", "content": answer})
        return Answer(
            text=answer,
            tokens=tokens,
            prompt_tokens=len(ids),
            prefill_s=times[1] - times[0],
            decode_s=times[-1] - times[1],
            decode_steps=len(times) - 2,
        )
