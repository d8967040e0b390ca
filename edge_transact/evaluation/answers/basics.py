"""``--tasks basics``: the share of `questions` that a model answers rightly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from edge_transact.evaluation.answers.answering import Answered, answers
from edge_transact.evaluation.answers.degenerate import Degenerate
from edge_transact.evaluation.answers.questions import QUESTIONS, Question

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from edge_transact.runtime.host import HostModel
    from edge_transact.runtime.text import TextCodec


class AnswerRow(TypedDict):
    """A question and its answer, as ``--json`` and ``report.json`` have it."""

    kind: str
    question: str
    answer: str
    right: bool
    degenerate: Degenerate | None
    tokens: int
    ended: bool


@dataclass(frozen=True)
class Reply:
    """A question and a model's answer."""

    question: Question
    answer: Answered

    @property
    def right(self) -> bool:
        """Whether the rule accepts it. A loop is never right; going on for too long may be."""
        return self.answer.degenerate not in ("loop", "empty") and self.question.is_right(self.answer.text)

    @property
    def degenerate(self) -> Degenerate | None:
        """How it is degenerate. A right answer in a whole sentence has words of the question, and is no copy of it."""
        return None if self.answer.degenerate == "copy" and self.right else self.answer.degenerate

    def to_dict(self) -> AnswerRow:
        """As JSON values."""
        return AnswerRow(
            kind=self.question.kind,
            question=self.question.text,
            answer=self.answer.text,
            right=self.right,
            degenerate=self.degenerate,
            tokens=self.answer.tokens,
            ended=self.answer.ended,
        )


def ask(
    model: PreTrainedModel | HostModel,
    codec: TextCodec,
    asked: Sequence[Question] = QUESTIONS,
    *,
    step: str = "questions",
) -> list[Reply]:
    """Asks a model questions: ``ask(model, codec, QUESTIONS[:5])``."""
    given = answers(model, codec, [question.text for question in asked], step=step)
    return [Reply(question, answer) for question, answer in zip(asked, given, strict=True)]


def scores(rows: Sequence[AnswerRow]) -> dict[str, float]:
    """The share that is right: ``acc`` of all, and ``acc,KIND`` of each kind, as lm-eval names a filter's metrics."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    of_kind = {kind: [row["right"] for row in rows if row["kind"] == kind] for kind in kinds}
    return {
        "acc": sum(row["right"] for row in rows) / len(rows),
        **{f"acc,{kind}": sum(right) / len(right) for kind, right in of_kind.items()},
    }
