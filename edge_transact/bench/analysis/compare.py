"""Compares two logs: how much faster or slower the second is, and whether the difference is significant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

from edge_transact.bench.analysis.results import make_results
from edge_transact.bench.records.log import read_records
from edge_transact.bench.records.results import Result
from edge_transact.errors import EdgeTransactError

CONFIDENCE = 0.95

Metric = Literal["ttft_s", "decode_s", "e2e_s"]
METRICS: tuple[Metric, ...] = ("ttft_s", "decode_s", "e2e_s")

Pairing = tuple[str | None, str, str, int, int]


class Comparison(TypedDict):
    """One metric of a pair of results.

    Attributes:
        before: Median seconds in the first log.
        after: Median seconds in the second log.
        ratio: After divided by before, of the geometric means.
        low: Lower end of the ratio's confidence interval; None with fewer than two repetitions on a side.
        high: Upper end.
        verdict: ``faster``, ``slower``, ``noise`` if the interval holds 1, or ``unknown`` without an interval.
        warnings: Reasons to doubt the comparison.
    """

    model: str
    device: str
    target: str
    test: str
    metric: Metric
    before: float
    after: float
    ratio: float
    low: float | None
    high: float | None
    verdict: str
    warnings: list[str]


def compare_logs(before: Path, after: Path) -> list[Comparison]:
    """Compare the results of two logs that measured the same lengths on the same devices.

    Models are paired by name. If both logs hold a single model, these two are paired whatever their names.

    Returns:
        A row for each of `METRICS` of each pair of results.

    Raises:
        EdgeTransactError: The logs have nothing in common.
    """
    first, second = (make_results(read_records(path)) for path in (before, after))
    by_name = any(len({result["model"] for result in results}) > 1 for results in (first, second))
    known = {_pairing(result, by_name): result for result in first}
    rows: list[Comparison] = []
    for result in second:
        match = known.get(_pairing(result, by_name))
        if match is not None:
            rows += [_compare(match, result, metric) for metric in METRICS if match[metric] > 0 and result[metric] > 0]
    if not rows:
        raise EdgeTransactError(
            f"{before} and {after} have no model, device and lengths in common",
            fix="Measure both with the same --lengths on the same device.",
        )
    return rows


def _pairing(result: Result, by_name: bool) -> Pairing:
    """What two results must share to be compared."""
    name = result["model"] if by_name else None
    return name, result["serial"], result["target"], result["prefill_tokens"], result["decode_tokens"]


def _compare(before: Result, after: Result, metric: Metric) -> Comparison:
    first, second = ([sample[metric] for sample in side["samples"]] for side in (before, after))
    ratio, low, high = ratio_interval(first, second)
    return {
        "model": before["model"] if before["model"] == after["model"] else f"{before['model']} -> {after['model']}",
        "device": after["device"],
        "target": after["target"],
        "test": after["test"],
        "metric": metric,
        "before": before[metric],
        "after": after[metric],
        "ratio": ratio,
        "low": low,
        "high": high,
        "verdict": _verdict(low, high),
        "warnings": _warnings(before, after),
    }


def ratio_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float | None, float | None]:
    """``second / first`` of the geometric means, and its `CONFIDENCE` interval.

    Durations vary by factors rather than by differences, so the test is Welch's t on their logarithms. The interval is
    None if a side has only one value.
    """
    from scipy import stats

    logs = [[math.log(value) for value in side] for side in (first, second)]
    means = [sum(side) / len(side) for side in logs]
    ratio = math.exp(means[1] - means[0])
    if min(len(side) for side in logs) < 2:
        return ratio, None, None
    if all(len(set(side)) == 1 for side in logs):
        return ratio, ratio, ratio
    interval = stats.ttest_ind(logs[1], logs[0], equal_var=False).confidence_interval(CONFIDENCE)
    return ratio, math.exp(interval.low), math.exp(interval.high)


def _verdict(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "unknown"
    if high < 1:
        return "faster"
    return "slower" if low > 1 else "noise"


def _warnings(before: Result, after: Result) -> list[str]:
    found = []
    for name, side in (("before", before), ("after", after)):
        if side["throttled"]:
            found.append(f"the phone was throttling {name}")
        if side["repetitions"] < 3:
            found.append(f"only {side['repetitions']} repetitions {name}")
    first_c, second_c = before["temp_start_c"], after["temp_start_c"]
    if first_c is not None and second_c is not None and abs(first_c - second_c) > 5:
        found.append(f"started at {first_c:.0f} C before and {second_c:.0f} C after")
    if before["n_threads"] != after["n_threads"]:
        found.append(f"{before['n_threads']} threads before, {after['n_threads']} after")
    return found


def to_markdown(rows: Sequence[Comparison]) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"| model | device | test | metric | before | after | after / before ({CONFIDENCE:.0%}) | verdict | warnings |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | --- | --- |",
    ]
    for row in rows:
        span = f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else ""
        cells = [
            row["model"], row["device"], row["test"], row["metric"], f"{row['before']:.4f}", f"{row['after']:.4f}",
            f"{row['ratio']:.3f}{span}", row["verdict"], "; ".join(row["warnings"]),
        ]  # fmt: skip
        lines.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join(lines) + "\n"
