"""Compares two logs: how much faster or slower the second is, and whether the difference is significant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_transact.benchmarking.analysis import intervals
from edge_transact.benchmarking.analysis.export import markdown
from edge_transact.benchmarking.analysis.intervals import Estimate, Metric, Turns
from edge_transact.benchmarking.analysis.results import Result, make_results
from edge_transact.benchmarking.records.log import read_records
from edge_transact.benchmarking.records.plan import Lengths, lengths_of
from edge_transact.errors import EdgeTransactError

Pair = tuple[Result, Result]
"""The results of the first and of the second log that are compared."""

Comparison = Mapping[str, Any]
"""One metric of a pair of results.

``before`` and ``after`` are median seconds; ``ratio`` is after divided by before, of the geometric means, with its
interval if both sides have two rounds. ``verdict`` is as in `Estimate`.
"""


def paired(before: Path, after: Path) -> list[Pair]:
    """The results of two logs that measured the same lengths on the same devices; an `EdgeTransactError` if none did.

    Models are paired by name. If both logs hold a single model, these two are paired whatever their names.
    """
    first, second = (make_results(read_records(path)) for path in (before, after))
    by_name = any(len({result["model"] for result in results}) > 1 for results in (first, second))
    known = {_pairing(result, by_name): result for result in first}
    pairs = [(match, result) for result in second if (match := known.get(_pairing(result, by_name)))]
    if not compare(pairs):
        raise EdgeTransactError(
            f"{before} and {after} have no model, device and lengths in common",
            fix="Measure both with the same --lengths and --batch on the same device.",
        )
    return pairs


def compare(pairs: Sequence[Pair]) -> list[Comparison]:
    """A row for each of `METRICS` of each pair of results."""
    rows: list[Comparison] = []
    for before, after in pairs:
        # The second log's time as a multiple of the first's, so the second is the baseline of this speed-up.
        for metric in intervals.METRICS:
            if ratio := intervals.speedup(_turns(after, metric, "after"), _turns(before, metric, "before")):
                rows.append(_compare(before, after, metric, ratio))
    return rows


def as_fast(row: Comparison) -> tuple[float, float] | None:
    """The interval of how many times as fast the second log's is; None if there is none."""
    return None if row["low"] is None or row["high"] is None else (1 / row["high"], 1 / row["low"])


def _pairing(result: Result, by_name: bool) -> tuple[str | None, str, str, Lengths]:
    """What two results must share to be compared."""
    name = result["model"] if by_name else None
    return name, result["serial"], result["target"], lengths_of(result)


def _compare(before: Result, after: Result, metric: Metric, ratio: Estimate) -> Comparison:
    opposite = {"faster": "slower", "slower": "faster"}
    return {
        "model": before["model"] if before["model"] == after["model"] else f"{before['model']} -> {after['model']}",
        **{name: after[name] for name in ("device", "target", "test", "prefill_tokens", "decode_tokens", "batch_size")},
        "metric": metric,
        "before": before[metric],
        "after": after[metric],
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "verdict": opposite.get(ratio.verdict, ratio.verdict),
        "warnings": _warnings(before, after),
    }


def _turns(result: Result, metric: Metric, side: str) -> Turns:
    """A duration by turn. Models of two logs took no turns, so the side is part of a session's name."""
    samples = result["samples"]
    return intervals.turns(((f"{side} {each['session']}", each["round"]), each[metric]) for each in samples)


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


def cells(row: Comparison) -> list[str]:
    """A row as the cells of a table: the model to the verdict, then warnings."""
    span = f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else ""
    return [
        row["model"], row["device"], row["test"], row["metric"], f"{row['before']:.4f}", f"{row['after']:.4f}",
        f"{row['ratio']:.3f}{span}", intervals.NO_DIFFERENCE if row["verdict"] == "noise" else row["verdict"],
        "; ".join(row["warnings"]),
    ]  # fmt: skip


def to_markdown(rows: Sequence[Comparison]) -> str:
    ratio = f"after / before ({intervals.CONFIDENCE:.0%})"
    header = ("model", "device", "test", "metric", "before", "after", ratio, "verdict", "warnings")
    return markdown(header, [cells(row) for row in rows])
