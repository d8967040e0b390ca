"""The report of a comparison of two logs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.report import Origin, Report, Section
from edge_transact.bench.analysis import figures
from edge_transact.bench.analysis.compare import Comparison, Pair, cells
from edge_transact.bench.analysis.figures import Interval
from edge_transact.bench.analysis.intervals import CONFIDENCE, ratio_in_words
from edge_transact.bench.analysis.report import ANSWERS, machine_of
from edge_transact.bench.analysis.warnings import WORDS
from edge_transact.bench.records.plan import Lengths, lengths_of

HEADER = ("model", "device", "tokens", "what", "before, s", "after, s", f"times as long ({CONFIDENCE:.0%})", "verdict")


def write_comparison(
    pairs: Sequence[Pair], rows: Sequence[Comparison], directory: Path, *, names: tuple[str, str], command: str
) -> None:
    """Writes ``index.html``, ``comparison.json`` and the charts as SVG files.

    Args:
        pairs: The results of the first and of the second log.
        rows: Their comparison.
        directory: Output directory; it is complete or absent.
        names: The logs.
        command: The line that makes it again.

    Raises:
        EdgeTransactError: `directory` exists.
    """
    charts = []
    for place, device in enumerate(dict.fromkeys(row["device"] for row in rows), 1):
        ratios: dict[str, dict[Lengths, figures.Ratio]] = {}
        for row in rows:
            if row["device"] == device and row["metric"] == "e2e_s":
                ratios.setdefault(_name(row, rows), {})[lengths_of(row)] = 1 / row["ratio"], _as_fast(row)
        title = f"{names[1]} on {device}: times as fast as {names[0]}"
        charts.append(figures.speedups(f"{place}-speedup", title, ratios))
    results = [after for _, after in pairs]
    table = Section(
        "comparisons",
        "All comparisons",
        header=HEADER,
        rows=[
            [_name(row, rows), row["device"], str(lengths_of(row)), WORDS[row["metric"]], *cells(row)[4:-1]]
            for row in rows
        ],
        note=f"Before: {names[0]}. After: {names[1]}. Medians of all repetitions; ratios of geometric means, with 95 % "
        "confidence intervals (Welch's t). Models of two logs took no turns, so a machine that has changed in between "
        "counts as a difference.",
    )
    warnings = dict.fromkeys(
        f"{row['model']} at {lengths_of(row)} tokens on {row['device']}: {'; '.join(row['warnings'])}"
        for row in rows
        if row["warnings"]
    )
    machines = dict.fromkeys(machine_of(result) for result in results)
    date = max(result["test_time"] for result in results)[:10]
    origin = Origin(command, "; ".join(machines), results[0]["build"], date=date)
    page = Report(answer(rows, names), "edge-transact bench compare", [*charts, table], origin, warnings=list(warnings))
    with new_directory(directory) as fresh:
        page.write(fresh, rows, "comparison.json")


def answer(rows: Sequence[Comparison], names: tuple[str, str]) -> str:
    """The first line of the page: prompt and answer together, at the longest lengths of the first device."""
    device = rows[0]["device"]
    whole = [row for row in rows if row["device"] == device and row["metric"] == "e2e_s"] or list(rows)
    longest = max(map(lengths_of, whole))
    shown = [row for row in whole if lengths_of(row) == longest]
    clauses = [f"{_name(row, rows)}: {_words(row)}" for row in shown[:ANSWERS]]
    more = ", ..." if len(shown) > ANSWERS else ""
    return f"{'; '.join(clauses)}{more}, {names[1]} against {names[0]} on {device}"


def _words(row: Comparison) -> str:
    """A comparison in words, with its interval if there is one."""
    low, high = _as_fast(row) or (None, None)
    return ratio_in_words(1 / row["ratio"], low, high, row["verdict"])


def _as_fast(row: Comparison) -> Interval | None:
    """The interval of how many times as fast the second log's is."""
    return None if row["low"] is None or row["high"] is None else (1 / row["high"], 1 / row["low"])


def _name(row: Comparison, rows: Sequence[Comparison]) -> str:
    several = len({each["target"] for each in rows}) > 1
    return f"{row['model']} {row['target']}" if several else row["model"]
