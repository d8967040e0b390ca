"""The page of a comparison of two logs, from the template of all pages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from edge_transact.artifacts.charts import number
from edge_transact.artifacts.outputs import new_directory
from edge_transact.artifacts.pages import Origin, write_page
from edge_transact.bench.analysis import figures
from edge_transact.bench.analysis.compare import Comparison, Pair
from edge_transact.bench.analysis.figures import Interval
from edge_transact.bench.analysis.intervals import CONFIDENCE, NO_DIFFERENCE
from edge_transact.bench.analysis.report import machine_of
from edge_transact.bench.records.plan import Lengths, lengths_of

ANSWERS = 2
"""The most models in the first line."""

HEADER = ("model", "device", "tokens", "what", "before", "after", f"times as long ({CONFIDENCE:.0%})", "verdict")

WHAT = {"ttft_s": "first token", "decode_s": "answer after it", "e2e_s": "prompt and answer"}


def write_comparison(
    pairs: Sequence[Pair], rows: Sequence[Comparison], directory: Path, *, names: tuple[str, str], command: str
) -> None:
    """Writes ``index.html``, ``comparison.json`` and the pictures as SVG files.

    Args:
        pairs: The results of the first and of the second log.
        rows: Their comparison.
        directory: Output directory; it is complete or absent.
        names: The logs.
        command: The line that makes it again.

    Raises:
        EdgeTransactError: `directory` exists.
    """
    pictures = []
    for place, device in enumerate(dict.fromkeys(row["device"] for row in rows), 1):
        ratios: dict[str, dict[Lengths, tuple[float, Interval | None]]] = {}
        for row in rows:
            if row["device"] == device and row["metric"] == "e2e_s":
                ratios.setdefault(_name(row, rows), {})[lengths_of(row)] = 1 / row["ratio"], _as_fast(row)
        pictures.append(figures.speedups(f"{place}-speedup", names[0], ratios, f"{names[1]} on {device}"))
    results = [after for _, after in pairs]
    warnings = dict.fromkeys(
        f"{row['model']} at {lengths_of(row)} tokens on {row['device']}: {'; '.join(row['warnings'])}"
        for row in rows
        if row["warnings"]
    )
    machines = dict.fromkeys(machine_of(result) for result in results)
    date = max(result["test_time"] for result in results)[:10]
    with new_directory(directory) as fresh:
        (fresh / "comparison.json").write_text(json.dumps(rows, indent=2) + "\n")
        write_page(
            fresh,
            "compare_report.html.j2",
            answer(rows, names),
            "edge-transact bench compare",
            pictures,
            Origin(command, "; ".join(machines), results[0]["build"], date=date),
            json_file="comparison.json",
            names=names,
            warnings=list(warnings),
            columns=HEADER,
            rows=[_cells(row, rows) for row in rows],
        )


def answer(rows: Sequence[Comparison], names: tuple[str, str]) -> str:
    """The first line of the page: prompt and answer together, at the longest lengths of the first device."""
    device = rows[0]["device"]
    whole = [row for row in rows if row["device"] == device and row["metric"] == "e2e_s"] or list(rows)
    longest = max(map(lengths_of, whole))
    shown = [row for row in whole if lengths_of(row) == longest]
    clauses = [f"{_name(row, rows)}: {_verdict(row)}" for row in shown[:ANSWERS]]
    more = ", ..." if len(shown) > ANSWERS else ""
    return f"{'; '.join(clauses)}{more}, {names[1]} against {names[0]} on {device}"


def _verdict(row: Comparison) -> str:
    """A comparison in words, with its interval if there is one."""
    ratio, interval = row["ratio"], (row["low"], row["high"])
    if row["verdict"] == "noise":
        said = NO_DIFFERENCE
    elif row["verdict"] == "slower":
        said = f"takes {ratio:.2f} times as long"
    else:
        said, interval = f"{1 / ratio:.2f} times as fast", _as_fast(row) or (None, None)
    if interval[0] is None:
        return f"{said}, without an interval: too few rounds"
    words = " times as long" if row["verdict"] == "noise" else ""
    return f"{said} ({interval[0]:.2f} to {interval[1]:.2f}{words})"


def _as_fast(row: Comparison) -> Interval | None:
    """The interval of how many times as fast the second log's is."""
    return None if row["low"] is None or row["high"] is None else (1 / row["high"], 1 / row["low"])


def _cells(row: Comparison, rows: Sequence[Comparison]) -> list[str]:
    span = f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] is not None else ""
    return [
        _name(row, rows),
        row["device"],
        str(lengths_of(row)),
        WHAT[row["metric"]],
        f"{number(row['before'])} s",
        f"{number(row['after'])} s",
        f"{row['ratio']:.3f}{span}",
        NO_DIFFERENCE if row["verdict"] == "noise" else row["verdict"],
    ]


def _name(row: Comparison, rows: Sequence[Comparison]) -> str:
    several = len({each["target"] for each in rows}) > 1
    return f"{row['model']} {row['target']}" if several else row["model"]
