"""What is measured, and in which order, so that no model gains from being first or loses from being last."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_transact.errors import UsageError

MOST_REPETITIONS = 10**6
"""Of a sustained visit, which ends by the clock."""


@dataclass(frozen=True, order=True)
class Lengths:
    """Tokens of each of `batch_size` prompts, and of its answer, whose first token the prefill gives."""

    prefill_tokens: int
    decode_tokens: int
    batch_size: int = 1

    def __str__(self) -> str:
        pair = f"{self.prefill_tokens}+{self.decode_tokens}"
        return pair if self.batch_size == 1 else f"{self.batch_size} x {pair}"


def lengths_of(result: Mapping[str, Any]) -> Lengths:
    return Lengths(result["prefill_tokens"], result["decode_tokens"], result["batch_size"])


@dataclass(frozen=True)
class Visit:
    """One process on one device, which loads a model, warms up, and runs repetitions at one pair of lengths.

    `model` is an index into the plan's models, and `round` counts the passes over all of them. A sustained visit ends
    with the first repetition that ends after `seconds`.
    """

    model: int
    lengths: Lengths
    round: int
    repetitions: int
    seconds: float | None = None


def parse_lengths(text: str) -> list[Lengths]:
    """Parse ``64+64,256+64`` in its order, without duplicates; a `UsageError` for other texts or a 0."""
    lengths: list[Lengths] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\+(\d+)\s*", part, re.ASCII)
        if match is None or 0 in (int(match[1]), int(match[2])):
            raise UsageError(
                f"--lengths has {part.strip()!r}, which is not PREFILL+DECODE tokens",
                fix="Write pairs such as 64+64,256+64, each number at least 1.",
            )
        pair = Lengths(int(match[1]), int(match[2]))
        if pair not in lengths:
            lengths.append(pair)
    return lengths


def make_rounds(models: int, lengths: Sequence[Lengths], repetitions: Sequence[int]) -> list[list[Visit]]:
    """The rounds of one device. In each, the models take turns at every pair of lengths, `repetitions` by round each.

    Every second round runs backwards: A B, B A, A B. Over two rounds all models have the same mean place in time, so a
    drift that is linear in time, such as a phone that slowly warms up, favours none of them.
    """
    order = [(model, pair) for pair in lengths for model in range(models)]
    return [
        [Visit(model, pair, number, count) for model, pair in (order[::-1] if number % 2 else order)]
        for number, count in enumerate(repetitions)
    ]


def prompt_ids(vocab_size: int, tokens: int) -> list[int]:
    """A prompt of arbitrary token ids, the same in every run and on every device.

    Prompts nest: the one of 256 tokens begins with the one of 64. The first 3 ids, often special tokens, are left out.
    """
    generator = random.Random(20240705)
    return [generator.randrange(min(3, vocab_size - 1), vocab_size) for _ in range(tokens)]
