"""A conversation with a DIST's host library: prompts in, streamed text and timings out."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from edge_transact.artifacts.dist_files import CHAT_CONFIG
from edge_transact.artifacts.manifest import not_a_dist
from edge_transact.errors import EdgeTransactError
from edge_transact.reading import read_model
from edge_transact.runtime.chat_template import Message
from edge_transact.runtime.host import HostModel, import_tvm_ffi
from edge_transact.runtime.opening import Opening
from edge_transact.runtime.sampling import Sampler, Sampling
from edge_transact.runtime.text import END_OF_THINKING, THINK, TextCodec, TokenStream, split_reasoning

ANSWER_TOKENS = 256
"""Room for an answer, for which old turns are forgotten; at most a quarter of the window, as in the app."""

Finish = Literal["stop", "length", "context", "stopped"]
"""Why an answer ended: by the model, at `max_tokens`, at the end of the context window, or by the caller."""


class _ConversationTemplate(BaseModel):
    stop_token_ids: set[int]


class ChatConfig(Sampling):
    """The part of ``mlc-chat-config.json`` that a session reads: sampling, and the tokens that end an answer."""

    conv_template: _ConversationTemplate

    @classmethod
    def read(cls, dist: Path) -> ChatConfig:
        """The configuration of a DIST; an `EdgeTransactError` if it isn't a DIST, or its configuration is invalid."""
        path = dist / CHAT_CONFIG
        if not path.is_file():
            raise not_a_dist(dist, path.name)
        return read_model(cls, path, "Correct it, or build the model again.")


@dataclass(frozen=True)
class Answer:
    """An answer of the model, and how long it took.

    Attributes:
        text: Its text, without the reasoning before it.
        reasoning: What the model wrote between ``<think>`` and ``</think>``; empty if it doesn't reason.
        tokens: The token ids of both, without a stop token.
        prompt_tokens: Tokens of the prompt, including the chat template.
        prefill_tokens: Prompt tokens that weren't in the KV cache.
        dropped_turns: How many of the oldest turns were forgotten because they no longer fit.
        prefill_s: Seconds to the first token.
        decode_s: Seconds of the tokens after the first.
        decode_steps: Number of tokens after the first, including a stop token.
    """

    text: str
    reasoning: str
    tokens: list[int]
    finish: Finish
    prompt_tokens: int
    prefill_tokens: int
    dropped_turns: int
    prefill_s: float
    decode_s: float
    decode_steps: int

    @property
    def prefill_tok_s(self) -> float:
        """`prefill_tokens` per second."""
        return self.prefill_tokens / self.prefill_s

    @property
    def decode_tok_s(self) -> float | None:
        """Decoded tokens per second, without the first token; `None` if there was no other."""
        return self.decode_steps / self.decode_s if self.decode_steps > 0 else None

    def to_dict(self) -> dict[str, object]:
        """The result of ``run --json``."""
        keys = (
            "text",
            "reasoning",
            "tokens",
            "prompt_tokens",
            "prefill_s",
            "decode_s",
            "prefill_tok_s",
            "decode_tok_s",
        )
        return {key: getattr(self, key) for key in keys}


class Session:
    """One conversation. `load` starts it, `answer` adds a turn, and `reset` removes all turns.

    Args:
        stop_token_ids: Ids that end an answer.
        max_tokens: The most tokens of an answer.
        sampling: How tokens are chosen; by default, the likeliest.
        system: The system message; by default, the chat template's own, if it has one.
        raw: Continue the text without the chat template.
        thinking: Whether a model that can reasons before it answers; by default, as its chat template has it.
    """

    def __init__(
        self,
        model: HostModel,
        codec: TextCodec,
        *,
        stop_token_ids: set[int],
        max_tokens: int = 256,
        sampling: Sampling | None = None,
        seed: int | None = None,
        system: str | None = None,
        raw: bool = False,
        thinking: bool | None = None,
    ) -> None:
        self.model = model
        self.codec = codec
        self.stop_token_ids = stop_token_ids
        self.max_tokens = max_tokens
        self.sampler = Sampler(sampling, seed)
        self.system = system
        self.thinking = thinking
        self.plain = raw or not codec.has_chat_template
        self.turns: list[tuple[Message, Message]] = []
        self._in_cache: list[int] = []

    @classmethod
    def load(
        cls,
        dist: Path,
        *,
        temperature: float | None = None,
        top_p: float | None = None,
        threads: int | None = None,
        opening: Opening | None = None,
        **options: Any,
    ) -> Session:
        """A session with the host library of a DIST; `options` are the constructor's.

        Sampling is that of ``mlc-chat-config.json`` but for `temperature` and `top_p`. `opening` is one with `text`.

        Raises:
            EdgeTransactError: It isn't a DIST, or has no host library.
        """
        config = ChatConfig.read(dist)
        given = {name: value for name, value in (("temperature", temperature), ("top_p", top_p)) if value is not None}
        with opening or Opening(dist, text=True) as opening:
            import_tvm_ffi()
            codec = opening.codec()
        return cls(
            HostModel(opening.library, dist, verified=True, threads=threads),
            codec,
            stop_token_ids=config.conv_template.stop_token_ids,
            sampling=config.model_copy(update=given),
            **options,
        )

    @property
    def messages(self) -> list[Message]:
        """The conversation: the system message, if one was given, and all turns that weren't forgotten."""
        return [*self._system_message(), *(message for turn in self.turns for message in turn)]

    def reset(self) -> None:
        """Remove all turns."""
        self.turns.clear()

    def answer(
        self, text: str, *, on_text: Callable[[str], None] | None = None, stopped: Callable[[], bool] = lambda: False
    ) -> Answer:
        """The model's answer to `text`, after the turns before it.

        The oldest turns are forgotten if they leave no room for an answer in the context window. `on_text` is called
        with each piece of the answer, which ends when `stopped` is true before a chunk of the prompt or a token.

        Raises:
            EdgeTransactError: The prompt is empty or too long, or rejected by the template. Turns don't change.
        """
        with closing(self.stream(text, stopped=stopped)) as pieces:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    return end.value
                if on_text:
                    on_text(piece)

    def stream(self, text: str, *, stopped: Callable[[], bool] = lambda: False) -> Generator[str, None, Answer]:
        """`answer` as a generator of pieces that returns the answer; a turn is only added if it is read to the end.

        Reasoning is among the pieces, between ``<think>`` and ``</think>``.
        """
        dropped, ids = self._prompt(text)
        if not ids:
            raise EdgeTransactError(
                "the prompt has no token that the model knows", fix='Say something: --prompt "Once upon a time"'
            )
        try:
            answer = yield from self._answered(ids, dropped, stopped)
        except BaseException:
            # The model may have been interrupted in the middle of a token.
            self.model.reset()
            self._in_cache.clear()
            raise
        del self.turns[:dropped]
        self.turns.append(({"role": "user", "content": text}, {"role": "assistant", "content": answer.text}))
        return answer

    def _answered(self, ids: list[int], dropped: int, stopped: Callable[[], bool]) -> Generator[str, None, Answer]:
        stream, pieces, tokens, times = TokenStream(self.codec), [], [], [time.perf_counter()]
        finish: Finish = "stopped"
        if not self.plain and self.codec.decode(ids[-4:]).rstrip().endswith(THINK):
            pieces.append(f"{THINK}\n")  # as R1's template begins every answer
            yield pieces[0]
        kept = self._rewind(ids)
        for token in self._tokens(ids, kept, stopped):
            times.append(time.perf_counter())
            if token in self.stop_token_ids:
                finish = "stop"
                break
            tokens.append(token)
            if piece := stream.push(token):
                pieces.append(piece)
                yield piece
            if len(tokens) == self.max_tokens:
                finish = "length"
                break
            if self.model.length >= self.model.context_window_size:
                finish = "context"
                break
        said = "".join(pieces)
        reasoning, text = ("", said) if self.plain else split_reasoning(said)
        if reasoning and END_OF_THINKING not in said:
            yield END_OF_THINKING
        first = times[min(1, len(times) - 1)]
        return Answer(
            text=text,
            reasoning=reasoning,
            tokens=tokens,
            finish=finish,
            prompt_tokens=len(ids),
            prefill_tokens=len(ids) - kept,
            dropped_turns=dropped,
            prefill_s=first - times[0],
            decode_s=times[-1] - first,
            decode_steps=max(0, len(times) - 2),
        )

    def _system_message(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system is not None else []

    def _prompt(self, text: str) -> tuple[int, list[int]]:
        """The number of oldest turns to forget, and the prompt without them."""
        window = self.model.context_window_size
        if self.plain:
            return 0, self._fitting(self.codec.encode(text))
        question: Message = {"role": "user", "content": text}
        for dropped in range(len(self.turns) + 1):
            turns = (message for turn in self.turns[dropped:] for message in turn)
            ids = self.codec.encode_chat([*self._system_message(), *turns, question], self.thinking)
            if len(ids) <= window - min(ANSWER_TOKENS, window // 4):
                return dropped, ids
        return len(self.turns), self._fitting(ids)

    def _fitting(self, ids: list[int]) -> list[int]:
        window = self.model.context_window_size
        if len(ids) >= window:
            raise EdgeTransactError(
                f"the message is too long for the model: {len(ids)} tokens, and the context has room for {window - 1}",
                fix="Shorten it, or build with a larger --context.",
            )
        return ids

    def _rewind(self, ids: list[int]) -> int:
        """Forget all of the KV cache but a common prefix with the prompt; returns the prefix's length."""
        # The last token is computed again: its logits are needed.
        pairs = zip(self._in_cache, ids[:-1], strict=False)
        kept = next(
            (place for place, (old, new) in enumerate(pairs) if old != new), min(len(self._in_cache), len(ids) - 1)
        )
        self.model.rewind(kept)
        del self._in_cache[kept:]
        return kept

    def _tokens(self, ids: list[int], kept: int, stopped: Callable[[], bool]) -> Iterator[int]:
        """The tokens of the answer, until the caller stops."""
        self.sampler.begin()
        for start in range(kept, len(ids), self.model.prefill_chunk_size):
            if stopped():
                return
            chunk = ids[start : start + self.model.prefill_chunk_size]
            logits = self.model.prefill(chunk)
            self._in_cache += chunk
        while True:
            token = self.sampler.choose(logits)
            yield token
            if stopped():
                return
            logits = self.model.decode(token)
            self._in_cache.append(token)
