"""Confidence intervals of durations, and of ratios of durations.

Noise acts on a duration as a factor, so all of it is computed on logarithms, with Student's t: an interval of a
duration is one of its geometric mean. The unit is the turn. Repetitions of one process share its memory layout and
its moment, so they count as one value, their mean.

Two models that took turns in the same rounds are compared round by round: what slows a round down slows both. Other
durations are compared with Welch's t.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

CONFIDENCE = 0.95

NO_DIFFERENCE = "no difference beyond noise"
"""What a ratio says whose interval holds 1."""

IMPRECISE = 0.25
"""A ratio whose interval is wider than this to each side is worded as a lower bound."""

Turn = tuple[str | None, int]
"""A session, and a round in it."""

Turns = Mapping[Turn, float]
"""The logarithm of a duration by turn; empty if there is no such duration."""

Verdict = Literal["faster", "slower", "noise", "unknown"]


@dataclass(frozen=True)
class Estimate:
    """A geometric mean, and its `CONFIDENCE` interval, if there are enough turns for one.

    `pairs` are the rounds in which two models took turns; 0 if they were compared without.
    """

    value: float
    low: float | None
    high: float | None
    pairs: int = 0

    @property
    def half_width(self) -> float | None:
        """Half the interval's width, relative to its middle."""
        return None if self.low is None or self.high is None else (self.high - self.low) / (self.high + self.low)

    @property
    def verdict(self) -> Verdict:
        """What a speed-up says; ``noise`` if the interval holds 1."""
        if self.low is None or self.high is None:
            return "unknown"
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "noise"


def ratio_in_words(ratio: float, low: float | None, high: float | None, verdict: str | None) -> str:
    """How many times as fast something is, with the interval: ``2.01 times as fast (1.95 to 2.08)``.

    `ratio` is the baseline's duration divided by its own.
    """
    if verdict == "noise":
        return f"{NO_DIFFERENCE} ({low:.2f} to {high:.2f} times as fast)"
    if low is None or high is None:
        return f"{_times(ratio)}, from one round, which tells nothing of the noise"
    least, most = (low, high) if ratio >= 1 else (1 / high, 1 / low)
    half_width = (high - low) / (high + low)
    if half_width > IMPRECISE:
        return f"{_times(ratio)} (at least {_figure(least)}, known to ±{half_width:.0%} only)"
    return f"{_times(ratio)} ({_figure(least)} to {_figure(most)})"


def _times(ratio: float) -> str:
    return f"{_figure(ratio)} times as fast" if ratio >= 1 else f"{_figure(1 / ratio)} times as slow"


def _figure(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def turns(durations: Iterable[tuple[Turn, float]]) -> Turns:
    """Durations, in seconds, by turn. An answer of one token has no time for decoding, and so no turns of it."""
    logs: dict[Turn, list[float]] = defaultdict(list)
    for turn, seconds in durations:
        if seconds <= 0:
            return {}
        logs[turn].append(math.log(seconds))
    return {turn: fmean(values) for turn, values in logs.items()}


def duration(own: Turns) -> Estimate | None:
    """The geometric mean of a duration."""
    return _estimate(fmean(own.values()), *_error(list(own.values()))) if own else None


def speedup(baseline: Turns, own: Turns) -> Estimate | None:
    """How many times as fast something is as a baseline: the baseline's duration divided by its own."""
    if not baseline or not own:
        return None
    ratios = [baseline[turn] - own[turn] for turn in own if turn in baseline]
    if len(ratios) > 1 or len(ratios) == len(own):
        return _estimate(fmean(ratios), *_error(ratios), pairs=len(ratios))
    (first_error, first_freedom), (own_error, own_freedom) = (_error(list(side.values())) for side in (baseline, own))
    difference = fmean(baseline.values()) - fmean(own.values())
    if first_error is None or own_error is None:
        return _estimate(difference, None, 0)
    squares = first_error**2, own_error**2
    total = sum(squares)
    # Welch and Satterthwaite's degrees of freedom.
    freedom = total**2 / (squares[0] ** 2 / first_freedom + squares[1] ** 2 / own_freedom) if total else 1
    return _estimate(difference, math.sqrt(total), freedom)


def _error(values: Sequence[float]) -> tuple[float | None, int]:
    """The standard error of a mean, and its degrees of freedom."""
    count, mean = len(values), fmean(values)
    if count < 2:
        return None, 0
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count), count - 1


def _estimate(mean: float, error: float | None, freedom: float, pairs: int = 0) -> Estimate:
    from scipy import special

    if error is None:
        return Estimate(math.exp(mean), None, None, pairs)
    # stdtrit, not stats.t.ppf, which takes ten times as long to import.
    half = error * float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) if error else 0.0
    return Estimate(math.exp(mean), math.exp(mean - half), math.exp(mean + half), pairs)
