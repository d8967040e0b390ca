"""How fast a model stays when it decodes without a pause: the sustained visits of a log as figures and warnings.

Speeds are of decoding, without the prompts in between. The first `WINDOW_S` and the last are compared; of a series that
is shorter than both, its halves. ``docs/bench-reference.md`` explains the fields.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import accumulate
from statistics import fmean
from typing import Any

from edge_transact.artifacts.charts import number
from edge_transact.artifacts.summary import Summary
from edge_transact.benchmarking.analysis.export import or_dash
from edge_transact.benchmarking.analysis.intervals import OTHERS_SHARE, THROTTLING
from edge_transact.benchmarking.analysis.results import named_apart
from edge_transact.benchmarking.records.plan import lengths_of
from edge_transact.benchmarking.records.readings import MOST_MILLIAMPERES, Reading, energy_j, known, summarize
from edge_transact.benchmarking.records.record import Record, VisitContext
from edge_transact.benchmarking.records.series import Series, series_of
from edge_transact.formatting import duration

WINDOW_S, SLOW = 60.0, 0.8
"""What is compared, and the share of the first speed below which the last one is warned of."""

COUNTED = 10
"""A charge counter that took so many values is preferred to the current."""

Sustained = Mapping[str, Any]


def make_sustained(records: Iterable[Record]) -> list[Sustained]:
    """The figures of each series in a log, those that were cut included."""
    return [_figures(series) for series in series_of(named_apart(records))]


class _Speed:
    """The tokens of a series by the time at which they came, which gives the speed of any part."""

    def __init__(self, series: Series) -> None:
        self._batch = series.repetitions[0].batch_size
        steps: list[tuple[float, float]] = []
        for each in series.repetitions:
            end_s, count = (each.ended_s or 0.0) - series.start_s, each.decode_tokens - 1
            for step in reversed(each.decode_steps_s or (each.decode_s / max(1, count),) * count):
                steps.append((end_s, step))
                end_s -= step
        steps.sort()
        self._ends = [end for end, _ in steps]
        self._sums = [0.0, *accumulate(step for _, step in steps)]

    def between(self, low_s: float, high_s: float) -> float | None:
        first, last = (bisect_right(self._ends, end) for end in (low_s, high_s))
        took_s = self._sums[last] - self._sums[first]
        return self._batch * (last - first) / took_s if took_s > 0 else None


def _changes(series: Series) -> list[tuple[float, int]]:
    """When Android's thermal status became another, in seconds, and which; the first is what it began with."""
    found: list[tuple[float, int]] = []
    for reading in series.readings:
        if reading.thermal_status is not None and (not found or found[-1][1] != reading.thermal_status):
            found.append((max(0.0, reading.at_s - series.start_s), reading.thermal_status))
    return found


def _figures(series: Series) -> Sustained:
    first, readings, speed, seconds = series.repetitions[0], series.readings, _Speed(series), series.seconds
    window_s = min(WINDOW_S, seconds / 2)
    began, ended = speed.between(0, window_s), speed.between(seconds - window_s, seconds)
    levels, temperatures = known(readings, "battery_percent"), known(readings, "temp_c")
    tokens = first.batch_size * sum(each.decode_tokens for each in series.repetitions)
    (joules, source), statuses = _energy(readings, seconds), _changes(series)
    found = {
        **{each.name: getattr(first, each.name) for each in fields(VisitContext)},
        "test_time": first.time,
        "n_threads": first.threads,
        "seconds": seconds,
        "complete": series.is_whole,
        "tokens": tokens,
        "window_s": window_s,
        "first_tok_s": began,
        "last_tok_s": ended,
        "last_share": ended / began if began and ended else None,
        "temp_min_c": min(temperatures, default=None),
        "temp_max_c": max(temperatures, default=None),
        "throttled_after_s": next((at for at, status in statuses if status >= THROTTLING), None),
        "thermal_changes": statuses,
        "other_cpu_share": summarize(readings, seconds).other_cpu_share,
        "battery_percent": [levels[0], levels[-1]] if levels else None,
        "energy_mwh": None if joules is None else joules / 3.6,
        "energy_mwh_per_1000_tokens": None if joules is None else joules / 3.6 / tokens * 1000,
        "energy_source": source,
        "minutes": list(_minutes(series, speed)),
    }
    return {**found, "warnings": list(_warnings(found, series))}


def _minutes(series: Series, speed: _Speed) -> Iterator[dict[str, float | None]]:
    """The course of a series. Its last minute is up to half a minute longer or shorter."""
    ends = [*(60.0 * minute for minute in range(1, round(series.seconds / 60))), series.seconds]
    for low, high in zip([0.0, *ends], ends, strict=False):
        within = [each for each in series.readings if low <= each.at_s - series.start_s <= high]
        summary, watts = vars(summarize(within, high - low)), known(within, "watts")
        sensors = {name: summary[name] for name in ("temp_peak_c", "thermal_status", "cpu_mhz", "gpu_mhz")}
        yield {"to_s": high, "tok_s": speed.between(low, high), **sensors, "watts": fmean(watts) if watts else None}


def _energy(readings: Sequence[Reading], seconds: float) -> tuple[float | None, str]:
    """Joules that the battery gave and what tells so, or why nothing does."""
    if not all(known(readings, "on_battery")):
        return None, "plugged in: the battery's current isn't the model's"
    counter, watts = energy_j(readings, seconds), known(readings, "watts")
    by_current = fmean(watts) * seconds if watts else None
    micro = any(abs(each) > MOST_MILLIAMPERES for each in known(readings, "current_now"))
    source = f"current in {'micro' if micro else 'milli'}amperes"
    if counter is not None and (by_current is None or len(set(known(readings, "charge_uah"))) >= COUNTED):
        check = "" if by_current is None else f"; {number(by_current / 3.6)} mWh by the {source}"
        return counter, f"charge counter{check}"
    return (None, "the device tells neither charge nor current") if by_current is None else (by_current, source)


def _warnings(found: Sustained, series: Series) -> Iterator[str]:
    if not found["complete"]:
        why = f": {series.end.error}" if series.end is not None and series.end.error else ""
        yield f"ended after {duration(found['seconds'])} of {duration(found['sustained_s'])}{why}"
    if found["last_share"] is not None and found["last_share"] < SLOW:
        yield f"slowed down to {found['last_share']:.0%}: {speeds(found)}"
    if found["throttled_after_s"] is not None:
        worst = max(status for _, status in found["thermal_changes"])
        yield f"throttling after {duration(found['throttled_after_s'])}, up to thermal status {worst}"
    if (found["other_cpu_share"] or 0) > OTHERS_SHARE:
        yield f"other programs took {found['other_cpu_share']:.0%} of the CPU"


def speeds(each: Sustained) -> str:
    part = "minute" if each["window_s"] == WINDOW_S else f"{each['window_s']:.0f} s"
    first, last = (or_dash(f"{end}_tok_s")(each) for end in ("first", "last"))
    return f"{first} tokens a second in the first {part}, {last} in the last"


SUSTAINED: Mapping[str, Callable[[Any], str]] = {
    "model": lambda each: f"{each['model']} {each['quantization']}".strip(),
    "device": or_dash("device", str),
    "backend": or_dash("target", str),
    "tokens": lambda each: str(lengths_of(each)),
    "time": or_dash("seconds", duration),
    "first tok/s": or_dash("first_tok_s"),
    "last tok/s": or_dash("last_tok_s"),
    "last / first": or_dash("last_share", "{:.0%}".format),
    "temp C": lambda each: (
        "-" if each["temp_min_c"] is None else f"{each['temp_min_c']:.0f} to {each['temp_max_c']:.0f}"
    ),
    "throttled after": or_dash("throttled_after_s", duration),
    "battery %": or_dash("battery_percent", lambda ends: f"{ends[0]} to {ends[1]}"),
    "mWh per 1,000 tokens": or_dash("energy_mwh_per_1000_tokens"),
    "energy by": or_dash("energy_source", str),
}
"""What a table says of a series."""


def table(found: Sequence[Sustained]) -> list[list[str]]:
    """A line for each of `SUSTAINED`, with a cell for each series."""
    return [[name, *map(cell, found)] for name, cell in SUSTAINED.items()]


def summarized(title: str, found: Sequence[Sustained], failed: Mapping[str, str]) -> Summary:
    header, *rows = table(found)
    warnings = [f"{each['model']}: {warning}" for each in found for warning in each["warnings"]]
    return Summary(title, {**failed, **({"warnings": "; ".join(warnings)} if warnings else {})}, header, rows)
