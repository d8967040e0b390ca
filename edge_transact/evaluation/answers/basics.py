"""``--tasks basics``: short questions, a model's answers, and the share that is right.

An answer takes the likeliest token each time, so that the same model answers the same. A prompt goes through the
model's chat template. A model without one continues ``Question: ...\\nAnswer:`` up to an empty line or next question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from pydantic import BaseModel

from edge_transact.artifacts.dist_files import CHAT_CONFIG
from edge_transact.errors import EdgeTransactError
from edge_transact.evaluation.answers.decoding import decode_in_library, decode_in_torch
from edge_transact.evaluation.answers.degenerate import Degenerate, degenerate
from edge_transact.evaluation.answers.questions import QUESTIONS, Question
from edge_transact.progress import bar
from edge_transact.reading import checked, read_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edge_transact.runtime.host import HostModel
    from edge_transact.runtime.text import TextCodec

MAX_TOKENS = 128
"""The most tokens of an answer. SmolLM2 ends its longest answer to a short question after 96."""

_ENDS_OF_TURNS = ("<|im_end|>", "<|eot_id|>", "<|end|>", "</s>")
"""Tokens that end an answer where a chat template has them, whatever the configuration says."""


@dataclass(frozen=True)
class Answered:
    """An answer.

    Attributes:
        tokens: How many it has, without the one that ends it.
        ended: Whether the model ended it. One without a chat template ends nothing: there it's always true.
    """

    prompt: str
    text: str
    tokens: int
    ended: bool
    degenerate: Degenerate | None


def answers(
    model: PreTrainedModel | HostModel,
    codec: TextCodec,
    prompts: Sequence[str],
    *,
    max_tokens: int = MAX_TOKENS,
    step: str = "answers",
) -> list[Answered]:
    """A model's answers to prompts, each in a conversation of its own.

    Raises:
        EdgeTransactError: The chat template refuses a message, or a prompt doesn't fit into a library's context window.
    """
    from edge_transact.runtime.host import HostModel

    ids = [_encoded(codec, prompt) for prompt in prompts]
    stops = stop_ids(codec)
    with bar(step, len(prompts)) as advance:
        decoded = (
            decode_in_library(model, ids, stops, max_tokens, advance)
            if isinstance(model, HostModel)
            else decode_in_torch(model, ids, stops, max_tokens, advance)
        )
    return [
        _answered(codec, prompt, before, tokens, stops)
        for prompt, before, tokens in zip(prompts, ids, decoded, strict=True)
    ]


def _answered(codec: TextCodec, prompt: str, before: list[int], tokens: list[int], stops: set[int]) -> Answered:
    ended = tokens[-1] in stops
    tokens = tokens[:-1] if ended else tokens
    text = codec.decode(tokens)
    if not codec.has_chat_template:
        text, ended = text.lstrip("\n").split("\n\n")[0].split("\nQuestion:")[0], True
    kind = degenerate(text, codec.decode(before), ended=ended)
    return Answered(prompt, text.strip(), len(tokens), ended, kind)


def _encoded(codec: TextCodec, prompt: str) -> list[int]:
    if codec.has_chat_template:
        if not (ids := codec.encode_chat([{"role": "user", "content": prompt}])):
            raise EdgeTransactError(
                f"the model's chat template makes no token of {prompt!r}", fix="Correct its chat_template."
            )
        return ids
    return codec.encode(f"Question: {prompt}\nAnswer:")


class _Template(BaseModel):
    stop_token_ids: list[int] | None = None


class _Ends(BaseModel):
    """What a configuration says of the tokens that end an answer; MLC's may name one of its own templates."""

    eos_token_id: int | list[int] | None = None
    conv_template: _Template | str | None = None


def stop_ids(codec: TextCodec) -> set[int]:
    """The tokens that end an answer: those of the model's configuration, and of its chat template."""
    found = set()
    for name in ("generation_config.json", "config.json", CHAT_CONFIG):
        path = codec.directory / name
        ends = checked(_Ends, read_object(path, optional=True), path)
        of_template = getattr(ends.conv_template, "stop_token_ids", None)
        eos = ends.eos_token_id if of_template is None else of_template
        found |= set(eos if isinstance(eos, list) else [eos])
    template = codec.chat_template or ""
    named = [token for token in _ENDS_OF_TURNS if token in template]
    found |= {codec.backend.token_to_id(token) for token in (codec.special_tokens.get("eos_token", ""), *named)}
    return found - {None}


class AnswerRow(TypedDict):
    """A question and its answer, as ``--json`` and ``report.json`` have it."""

    kind: str
    question: str
    answer: str
    right: bool
    degenerate: Degenerate | None
    tokens: int
    ended: bool


def row_of(question: Question, answer: Answered) -> AnswerRow:
    """A question and its answer. A loop is never right, and a right answer in the question's own words is no copy."""
    right = answer.degenerate not in ("loop", "empty") and question.is_right(answer.text)
    return AnswerRow(
        kind=question.kind,
        question=question.text,
        answer=answer.text,
        right=right,
        degenerate=None if answer.degenerate == "copy" and right else answer.degenerate,
        tokens=answer.tokens,
        ended=answer.ended,
    )


def ask(
    model: PreTrainedModel | HostModel,
    codec: TextCodec,
    asked: Sequence[Question] = QUESTIONS,
    *,
    step: str = "questions",
) -> list[AnswerRow]:
    """Asks a model questions: ``ask(model, codec, QUESTIONS[:5])``."""
    given = answers(model, codec, [question.text for question in asked], step=step)
    return list(map(row_of, asked, given))


def scores(rows: Sequence[AnswerRow]) -> dict[str, float]:
    """The share that is right: ``acc`` of all, and ``acc,KIND`` of each kind, as lm-eval names a filter's metrics."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    of_kind = {kind: [row["right"] for row in rows if row["kind"] == kind] for kind in kinds}
    return {
        "acc": sum(row["right"] for row in rows) / len(rows),
        **{f"acc,{kind}": sum(right) / len(right) for kind, right in of_kind.items()},
    }
