"""Results as Markdown, CSV, JSON, JSON lines and SQLite. All but the Markdown table hold every field."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from edge_transact.artifacts.charts import number
from edge_transact.bench.analysis.intervals import NO_DIFFERENCE, ratio_in_words
from edge_transact.bench.records.plan import lengths_of
from edge_transact.bench.records.results import Result
from edge_transact.errors import UsageError
from edge_transact.formatting import megabytes

FORMATS = ("md", "csv", "json", "jsonl", "sqlite")


def to_text(results: Sequence[Result], kind: str) -> str:
    """Results in a text format: ``md``, ``csv``, ``json`` or ``jsonl``."""
    if kind == "md":
        return _markdown(results)
    if kind == "csv":
        return _csv(results)
    if kind == "json":
        return json.dumps(list(results), indent=2) + "\n"
    return "".join(json.dumps(result) + "\n" for result in results)


def write_sqlite(results: Sequence[Result], path: Path) -> None:
    """Add a row for each result to the table ``results``. Lists and objects become JSON text.

    Raises:
        UsageError: `path` is a file of another kind, or its table has other columns.
    """
    rows = [_cells(result) for result in results]
    columns = list(rows[0]) if rows else ["model"]
    names = ", ".join(f'"{name}"' for name in columns)
    marks = ", ".join("?" for _ in columns)
    try:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(f"CREATE TABLE IF NOT EXISTS results ({names})")
            # An earlier version's table has fewer fields.
            known = {row[1] for row in database.execute("PRAGMA table_info(results)")}
            for name in columns if known & set(columns) else ():
                if name not in known:
                    database.execute(f'ALTER TABLE results ADD COLUMN "{name}"')
            database.executemany(
                f"INSERT INTO results ({names}) VALUES ({marks})", [list(row.values()) for row in rows]
            )
    except sqlite3.DatabaseError as error:
        raise UsageError(f"{path}: {error}", fix="Name another file.") from error


def _csv(results: Sequence[Result]) -> str:
    output = io.StringIO()
    rows = [_cells(result) for result in results]
    if rows:
        writer = csv.DictWriter(output, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return output.getvalue()


def _cells(result: Result) -> dict[str, object]:
    """A result as a flat row of text, numbers and None."""
    return {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in result.items()}


COLUMNS = (
    "model", "size", "params", "device", "backend", "threads", "test", "ttft s", "prefill tok/s", "decode tok/s",
    "e2e s", "times as fast", "load s", "rss MiB", "kv MiB", "temp C", "notes",
)  # fmt: skip


def _markdown(results: Sequence[Result]) -> str:
    rows = [list(COLUMNS), ["---"] * 6 + ["---:"] * 10 + ["---"]]
    rows += [table_row(result) for result in results]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def table_row(result: Result) -> list[str]:
    """A result as the cells of `COLUMNS`."""
    start_c, peak_c = result["temp_start_c"], result["temp_peak_c"]
    return [
        " ".join(f"{result['model']} {result['quantization']}".split()),
        f"{result['weights_mib']:.1f} MiB",
        f"{result['model_n_params'] / 1e6:.1f} M",
        result["device"],
        result["target"],
        _number(result["n_threads"], 0),
        result["test"],
        f"{result['ttft_s']:.3f}" + plus_minus(result["ttft_s_low"], result["ttft_s_high"]),
        _number(result["prefill_tok_s"], 2) + plus_minus(result["prefill_s_low"], result["prefill_s_high"]),
        _number(result["decode_tok_s"], 2) + plus_minus(result["decode_s_low"], result["decode_s_high"]),
        f"{result['e2e_s']:.3f}" + plus_minus(result["e2e_s_low"], result["e2e_s_high"]),
        times_as_fast(result),
        _number(result["load_s"], 2),
        _number(result["peak_rss_mib"], 0),
        _number(result["kv_mib"], 1),
        "-" if start_c is None or peak_c is None else f"{start_c:.0f} to {peak_c:.0f}",
        "; ".join(notes(result)),
    ]


NARROW = ("model", "device", "target", "tokens", "first token", "prefill tok/s", "decode tok/s", "memory")
"""Columns of `main_columns` that fit a terminal."""


def main_columns(results: Sequence[Result]) -> dict[str, list[str]]:
    """The figures that people look for, for terminals, notebooks and pages: a cell for each result, by column."""

    def spread(result: Result, name: str) -> str:
        return plus_minus(result[f"{name}_low"], result[f"{name}_high"])  # type: ignore[literal-required]

    columns: dict[str, Callable[[Result], str]] = {
        "model": lambda each: each["model"],
        "device": lambda each: each["device"],
        "target": lambda each: each["target"],
        "tokens": lambda each: str(lengths_of(each)),
        "size": lambda each: megabytes(each["model_size"]),
        "first token": lambda each: _time(each["ttft_s"]) + spread(each, "ttft_s"),
        "prefill tok/s": lambda each: _speed(each["prefill_tok_s"]) + spread(each, "prefill_s"),
        "decode tok/s": lambda each: _speed(each["decode_tok_s"]) + spread(each, "decode_s"),
        "whole": lambda each: _time(each["e2e_s"]) + spread(each, "e2e_s"),
        "memory": lambda each: megabytes(each["peak_rss_mib"] * 2**20) if each["peak_rss_mib"] else "-",
        "against the first": lambda each: "-" if each["e2e_speedup"] is None else speedup_in_words(each),
    }
    cells = {name: [cell(each) for each in results] for name, cell in columns.items()}
    needless = {name for name in ("device", "target") if len(set(cells[name])) == 1}
    needless |= {"against the first"} if set(cells["against the first"]) == {"-"} else set()
    return {name: column for name, column in cells.items() if name not in needless}


def _time(seconds: float) -> str:
    return f"{number(1000 * seconds)} ms" if seconds < 0.1 else f"{number(seconds)} s"


def _speed(tok_s: float | None) -> str:
    return "-" if tok_s is None else number(tok_s)


def times_as_fast(result: Result) -> str:
    """The ratio to the first model in a few words; ``-`` if there is none."""
    ratio, low, high = result["e2e_speedup"], result["e2e_speedup_low"], result["e2e_speedup_high"]
    if ratio is None:
        return "-"
    interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
    return f"{ratio:.2f}{interval}" + (f", {NO_DIFFERENCE}" if result["verdict"] == "noise" else "")


def sentence(result: Result) -> str | None:
    """A result against the first model's in words; None without a ratio."""
    if result["e2e_speedup"] is None:
        return None
    where = f"at {lengths_of(result)} tokens on {result['device']}"
    return f"{result['model']} against {result['baseline']} {where}: {speedup_in_words(result)}"


def speedup_in_words(result: Result) -> str:
    """How many times as fast as the baseline a result with a ratio is."""
    ends = result["e2e_speedup_low"], result["e2e_speedup_high"]
    return ratio_in_words(result["e2e_speedup"] or 1.0, *ends, result["verdict"])


def notes(result: Result) -> list[str]:
    """Reasons to doubt a result."""
    found = []
    if result["throttled"]:
        found.append("throttled")
    if result["prefill_slow"]:
        found.append("prefill slower than decoding: a bad kernel")
    if not result["tokens_equal"]:
        found.append("tokens differ between repetitions")
    checked, agreed = result["tokens_checked"], result["tokens_agreed"]
    if checked and agreed is not None and agreed < checked:
        found.append(f"{agreed} of {checked} tokens as in the build's parity record")
    return found + result["warnings"]


def plus_minus(low: float | None, high: float | None) -> str:
    """Half the width of an interval, relative to its middle; nothing if there is no interval."""
    return "" if low is None or high is None or high <= 0 else f" ±{100 * (high - low) / (high + low):.1f}%"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
