"""Sampling of the next token from logits: MLC's generation config, computed with numpy."""

from __future__ import annotations

from collections import Counter

import numpy as np
from pydantic import BaseModel, Field


class Sampling(BaseModel, frozen=True):
    """How tokens are chosen, with the fields of MLC's generation config and of ``mlc-chat-config.json``.

    Attributes:
        temperature: Divides the logits. At 0, the likeliest token is always chosen.
        top_p: Samples from the fewest likeliest tokens that reach this probability together.
        repetition_penalty: Divides positive logits of the answer's tokens so far, and multiplies negative ones.
        presence_penalty: Subtracted from the logits of the answer's tokens so far.
        frequency_penalty: The same, times the number of occurrences.
    """

    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0


class Sampler:
    """Chooses the tokens of answers: by default the likeliest; with `sampling`, at random unless there is a `seed`."""

    def __init__(self, sampling: Sampling | None = None, seed: int | None = None) -> None:
        self.sampling = sampling or Sampling()
        self._random = np.random.default_rng(seed)
        self._counts: Counter[int] = Counter()

    def begin(self) -> None:
        self._counts.clear()

    def choose(self, logits: np.ndarray) -> int:
        """The next token, from logits float32 ``[vocab_size]``, which aren't changed."""
        logits = self._penalized(logits)
        if self.sampling.temperature == 0:
            token = int(logits.argmax())
        else:
            logits = within_top_p(logits / self.sampling.temperature, self.sampling.top_p)
            possible = np.flatnonzero(logits > -np.inf)
            # The argmax of Gumbel-perturbed logits is a sample of the softmax.
            token = int(possible[(logits[possible] + self._random.gumbel(size=possible.shape)).argmax()])
        self._counts[token] += 1
        return token

    def _penalized(self, logits: np.ndarray) -> np.ndarray:
        """As in MLC's ``apply_penalty_inplace``; the logits themselves if nothing is to be penalized."""
        sampling = self.sampling
        penalties = sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty
        if not self._counts or penalties == (0.0, 0.0, 1.0):
            return logits
        tokens = np.fromiter(self._counts, np.int64)
        times = np.fromiter(self._counts.values(), np.float32)
        values = logits[tokens] - (times * sampling.frequency_penalty + sampling.presence_penalty)
        penalty = sampling.repetition_penalty
        logits = logits.copy()
        logits[tokens] = np.where(values > 0, values / penalty, values * penalty)
        return logits


def within_top_p(logits: np.ndarray, top_p: float) -> np.ndarray:
    """Keep the logits (float32 ``[vocab_size]``) of the fewest, at least one, that reach `top_p`; others are -inf."""
    if top_p >= 1:
        return logits
    weights = np.exp(logits - logits.max(), dtype=np.float64)
    total = weights.sum()
    # Sorting a vocabulary takes as long as decoding a token of a small model, so sort only likely tokens.
    for least in (1e-3, 1e-6, 0.0):
        likely = np.flatnonzero(weights >= least)
        if weights[likely].sum() >= top_p * total:
            break
    order = likely[np.argsort(-logits[likely], kind="stable")]
    before = (np.cumsum(weights[order]) - weights[order]) / total
    kept = order[: max(1, np.count_nonzero(before < top_p))]
    result = np.full_like(logits, -np.inf)
    result[kept] = logits[kept]
    return result
