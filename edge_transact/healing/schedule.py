"""The steps of a training: how many, how large, at which learning rates, and when held-out text is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from edge_transact.errors import UsageError
from edge_transact.healing.options import HealOptions
from edge_transact.healing.text import Sequence, TrainingText

WARMUP = 0.05
"""The share of the steps in which the learning rate rises."""

FINAL_RATE = 0.05
"""Where the cosine ends, as a share of the highest learning rate."""

MOST_EVALUATIONS = 8
"""How often held-out text is measured at most, besides once before the training."""

HELD_OUT_SHARE, LEAST_HELD_OUT = 0.02, 4
"""Held-out tokens, as a share of those that are trained on, and of a short training at least so many sequences."""

TRAINED_BETWEEN = 2
"""Between two measurements, at least so many times the measured sequences are trained on."""


@dataclass(frozen=True)
class Schedule:
    """The steps of a training.

    Attributes:
        sequences: Sequences of a step, over all processes.
        together: Sequences that go through the model at once.
    """

    steps: int
    sequences: int
    together: int
    length: int
    rate: float

    @classmethod
    def of(cls, options: HealOptions, length: int, processes: int = 1) -> Schedule:
        """The steps of these options; a `UsageError` if a step is less than a sequence for each process."""
        sequences = options.batch_tokens // length
        if sequences < processes or sequences % processes:
            raise UsageError(
                f"--batch-tokens {options.batch_tokens} is {sequences} sequences of {length}, which {processes} "
                f"process{'es' * (processes > 1)} can't share alike",
                fix=f"Give a multiple of {length * processes}, or a smaller --train-window.",
            )
        steps = max(1, options.train_tokens // (sequences * length))
        return cls(steps, sequences, max(1, options.micro_batch_tokens // length), length, options.learning_rate)

    @property
    def batch_tokens(self) -> int:
        return self.sequences * self.length

    @property
    def warmup(self) -> int:
        return max(1, round(WARMUP * self.steps))

    def rate_of(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * share)) / 2)

    def is_evaluated(self, done: int) -> bool:
        return self.evaluations(done) > self.evaluations(done - 1)

    def evaluations(self, done: int) -> int:
        trained = self.steps * self.sequences
        most = min(MOST_EVALUATIONS, max(1, trained // (TRAINED_BETWEEN * self._wanted_held_out)))
        every = -(-self.steps // most)
        return done // every + (done == self.steps and done % every > 0)

    def held_out_sequences(self, most: int) -> int:
        """How many held-out sequences are measured, of so many that there are."""
        return min(self._wanted_held_out, most)

    def held_out(self, text: TrainingText) -> list[Sequence]:
        """The held-out sequences that are measured, evenly spaced."""
        count = self.held_out_sequences(len(text.held_out))
        chosen = torch.linspace(0, len(text.held_out) - 1, count).round().long()
        return [Sequence(text.held_out[number], text.held_out_counted[number]) for number in chosen.tolist()]

    @property
    def _wanted_held_out(self) -> int:
        return max(round(HELD_OUT_SHARE * self.steps * self.sequences), LEAST_HELD_OUT)
