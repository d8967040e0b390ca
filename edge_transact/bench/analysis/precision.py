"""How well durations and their ratios are known from repetitions, and when that is well enough."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from typing import Literal

from edge_transact.bench.analysis.intervals import Estimate, Turns, duration, speedup, turns
from edge_transact.bench.records.plan import Lengths
from edge_transact.bench.records.record import Record, RepetitionRecord

Metric = Literal["ttft_s", "decode_s", "e2e_s"]
METRICS: tuple[Metric, ...] = ("ttft_s", "decode_s", "e2e_s")
"""The durations that are compared."""

Samples = Sequence[RepetitionRecord]


def turns_of(samples: Samples, metric: str) -> Turns:
    """A duration of repetitions, by turn."""
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
    target: str,
    lengths: Iterable[Lengths],
    given_up: Set[tuple[int, Lengths]] = frozenset(),
) -> float:
    """How precisely a device's part of a plan is known, from the records of the device.

    Args:
        records: Records of the device.
        models: Digests of the plan's models, the baseline first.
        target: Target of the libraries.
        lengths: Lengths of the plan.
        given_up: Models, by index, and lengths that don't count, nor does what is compared with them.

    Returns:
        The largest half-width of a 95 % interval, relative to its middle: of the ratios to the baseline, or, with one
        model, of its durations. Infinite if one isn't known.
    """
    groups: dict[tuple[str, Lengths], list[RepetitionRecord]] = defaultdict(list)
    for record in records:
        if isinstance(record, RepetitionRecord) and record.target == target:
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
