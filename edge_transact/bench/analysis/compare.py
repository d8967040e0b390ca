"""Two logs side by side: how much faster or slower, and whether the difference can be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_transact.bench.analysis.results import make_results
from edge_transact.bench.records.log import read_records
from edge_transact.errors import EdgeTransactError

CONFIDENCE = 0.95

METRICS = ("ttft_s", "decode_s", "e2e_s")


def compare_logs(before: Path, after: Path) -> list[dict[str, Any]]:
    """Compare the results of two logs that measured the same lengths on the same devices.

    Models are paired by name; where both logs hold a single model, those two are paired whatever their names.

    Returns:
        For each pair of results and each of `METRICS` a row: ``ratio`` (after / before of the geometric means), its
        confidence interval ``low``, ``high`` (Welch's t on log seconds; null with fewer than two repetitions on a
        side), ``verdict`` (``faster``, ``slower``, ``noise``, ``unknown``), and ``warnings``.

    Raises:
        EdgeTransactError: The logs have nothing in common.
    """
    ours, theirs = (make_results(read_records(path)) for path in (before, after))
    same_model = any(len({result["model"] for result in results}) > 1 for results in (ours, theirs))
    pairs = {_key(result, same_model): result for result in ours}
    rows = []
    for result in theirs:
        match = pairs.get(_key(result, same_model))
        if match is not None:
            metrics = [metric for metric in METRICS if match[metric] > 0 and result[metric] > 0]
            rows += [_row(match, result, metric) for metric in metrics]
    if not rows:
        raise EdgeTransactError(
            f"{before} and {after} have no model, device and lengths in common",
            fix="Measure both with the same --lengths on the same device.",
        )
    return rows


def _key(result: Mapping[str, Any], with_model: bool) -> tuple[Any, ...]:
    model = result["model"] if with_model else None
    return model, result["serial"], result["target"], result["prefill_tokens"], result["decode_tokens"]


def _row(before: Mapping[str, Any], after: Mapping[str, Any], metric: str) -> dict[str, Any]:
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
    """``second / first`` of the geometric means, and its `CONFIDENCE` interval; None where a side has one value only.

    Seconds spread by factors rather than by differences, so the test is Welch's t on their logarithms.
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


def _warnings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    found = []
    for name, side in (("before", before), ("after", after)):
        if side["throttled"]:
            found.append(f"the phone was throttling {name}")
        if side["repetitions"] < 3:
            found.append(f"{side['repetitions']} repetitions only {name}")
    heat = [side["temp_start_c"] for side in (before, after)]
    if None not in heat and abs(heat[0] - heat[1]) > 5:
        found.append(f"started at {heat[0]:.0f} C before and {heat[1]:.0f} C after")
    if before["n_threads"] != after["n_threads"]:
        found.append(f"{before['n_threads']} threads before, {after['n_threads']} after")
    return found


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table for people."""
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
