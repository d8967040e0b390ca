"""Confidence intervals of durations and of their ratios, and warnings about wide ones with likely causes.

Noise acts on a duration as a factor, so all of it is computed on logarithms, with Student's t: an interval of a
duration is one of its geometric mean. The unit is the turn. Repetitions of one process share its memory layout and
its moment, so they count as one value, their mean.

Two models that took turns in the same rounds are compared round by round: what slows a round down slows both. Other
durations are compared with Welch's t.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from edge_transact.benchmarking.records.plan import Lengths
from edge_transact.benchmarking.records.record import Record, RepetitionRecord

CONFIDENCE = 0.95

NO_DIFFERENCE = "no difference beyond noise"
"""What a ratio says whose interval holds 1."""

IMPRECISE = 0.25
"""A ratio whose interval is wider than this to each side is worded as a lower bound."""

Turn = tuple[str | None, int]
"""A session, and a round in it."""

Turns = Mapping[Turn, float]
"""The logarithm of a duration by turn; empty if there is no such duration."""

Metric = Literal["ttft_s", "decode_s", "e2e_s"]
METRICS: tuple[Metric, ...] = ("ttft_s", "decode_s", "e2e_s")

Samples = Sequence[RepetitionRecord]

WIDE = 0.05
"""Intervals that are wider than this to each side get a warning."""

FEW_ROUNDS = 5
"""With fewer, most of an interval's width is due to their number."""

OTHERS_SHARE = 0.1
"""Share of all CPU cores from which on other processes are a reason."""

CLOCK_FALL = 0.9
"""A clock that falls below this share of its highest value is a reason."""

WARMING_C = 5
"""Temperatures that differ by more are a reason."""

THROTTLING = 1
"""``ThermalStatus`` LIGHT, from which on Android says that it throttles."""

WORDS: Mapping[Metric, str] = {"ttft_s": "time to first token", "decode_s": "decode", "e2e_s": "latency"}

Verdict = Literal["faster", "slower", "noise", "unknown"]


@dataclass(frozen=True)
class Estimate:
    """A geometric mean, its `CONFIDENCE` interval if known, and the number of rounds in which two took turns."""

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
    """The baseline's duration divided by its own, with the interval: ``2.01 times as fast (1.95 to 2.08)``."""
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


def turns_of(samples: Samples, metric: str) -> Turns:
    return turns(((sample.session, sample.round), getattr(sample, metric)) for sample in samples)


def durations(samples: Samples) -> dict[Metric, Estimate]:
    """The durations of `METRICS`, in seconds."""
    found = {metric: duration(turns_of(samples, metric)) for metric in METRICS}
    return {metric: estimate for metric, estimate in found.items() if estimate}


def speedups(baseline: Samples, samples: Samples) -> dict[Metric, Estimate]:
    """How many times as fast something is as a baseline, by `METRICS`."""
    found = {metric: speedup(turns_of(baseline, metric), turns_of(samples, metric)) for metric in METRICS}
    return {metric: estimate for metric, estimate in found.items() if estimate}


def known_to(
    records: Iterable[Record],
    models: Sequence[str],
    targets: Collection[str],
    lengths: Iterable[Lengths],
    given_up: Set[tuple[int, Lengths]] = frozenset(),
) -> float:
    """The largest relative half-width of a 95 % interval in a device's part of a plan.

    These are intervals of the ratios to the first model, or, with one model, of its durations. Infinite if one isn't
    known. `models` are digests. What was given up doesn't count, nor does what is compared with it.
    """
    groups: dict[tuple[str, Lengths], list[RepetitionRecord]] = defaultdict(list)
    for record in records:
        if isinstance(record, RepetitionRecord) and record.target in targets:
            groups[record.model_digest, record.lengths].append(record)
    widths = []
    for pair in lengths:
        if (0, pair) in given_up:
            continue
        first, *others = (groups[digest, pair] for index, digest in enumerate(models) if (index, pair) not in given_up)
        compared = [speedups(first, other) for other in others] if others else [durations(first)]
        for estimates in compared:
            total = estimates.get("e2e_s")
            in_turns = total is not None and (not others or total.pairs > 1)
            known = [
                math.inf if estimate.half_width is None else estimate.half_width for estimate in estimates.values()
            ]
            widths += known if in_turns else [math.inf]
    return max(widths, default=0.0)


def warnings_of(samples: Samples, baseline: Samples) -> list[str]:
    """Warnings about imprecise durations of a result, and about their imprecise ratios to the baseline's, if any."""
    found = []
    if problem := _problem(durations(samples)):
        found.append(f"{problem}: {_reasons(samples)}")
    if baseline:
        ratios = speedups(baseline, samples)
        if not ratios["e2e_s"].pairs:
            problem = f"took no turns with {baseline[0].model}: a drift would count as a difference"
            again = "; --fresh measures both in turns" if samples[0].target == baseline[0].target else ""
            found.append(problem + again)
        elif problem := _problem(ratios):
            found.append(f"ratio: {problem}: {_reasons([*baseline, *samples])}")
    return found


def _problem(estimates: Mapping[Metric, Estimate]) -> str | None:
    """The least precise of some values; None if all are precise."""
    if any(estimate.half_width is None for estimate in estimates.values()):
        return "no interval"
    widths = {metric: estimate.half_width or 0.0 for metric, estimate in estimates.items()}
    worst = max(widths, key=lambda metric: widths[metric])
    return f"{WORDS[worst]} is known to ±{widths[worst]:.0%} only" if widths[worst] > WIDE else None


def _reasons(samples: Samples) -> str:
    rounds = len({(sample.session, sample.round) for sample in samples})
    reasons = []
    if any((sample.thermal_status or 0) >= THROTTLING for sample in samples):
        reasons.append("the phone was throttling")
    for name, field in (("CPU", "cpu_mhz"), ("GPU", "gpu_mhz")):
        clocks = [mhz for sample in samples if (mhz := getattr(sample, field))]
        if clocks and min(clocks) < CLOCK_FALL * max(clocks):
            reasons.append(f"the {name}'s clock varied from {min(clocks):,.0f} to {max(clocks):,.0f} MHz")
    temperatures = [sample.temp_start_c for sample in samples if sample.temp_start_c is not None]
    if temperatures and max(temperatures) - min(temperatures) > WARMING_C:
        reasons.append(f"the phone's temperature varied from {min(temperatures):.0f} to {max(temperatures):.0f} C")
    shares = [sample.other_cpu_share for sample in samples if sample.other_cpu_share is not None]
    if shares and median(shares) > OTHERS_SHARE:
        reasons.append(f"other programs took {median(shares):.0%} of the CPU")
    if rounds < FEW_ROUNDS:
        reasons.append(f"only {rounds} round{'s' * (rounds != 1)}")
    return ", ".join(reasons) or "no load, heat or clock explains it; `--until 3%` repeats more"
