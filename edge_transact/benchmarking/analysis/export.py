"""Results as Markdown, CSV, JSON, JSON lines and SQLite. All but the Markdown table hold every field."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from edge_transact.artifacts.charts import number
from edge_transact.benchmarking.analysis.intervals import ratio_in_words
from edge_transact.benchmarking.analysis.results import Result
from edge_transact.benchmarking.records.plan import lengths_of
from edge_transact.errors import UsageError
from edge_transact.formatting import megabytes

Rows = Sequence[Mapping[str, Any]]
FORMATS = ("md", "csv", "json", "jsonl", "sqlite")


def to_text(results: Rows, kind: str) -> str:
    """Results in a text format: ``md``, ``csv``, ``json`` or ``jsonl``."""
    if kind == "md":
        return markdown(list(COLUMNS), [[cell(each) for cell in COLUMNS.values()] for each in results])
    if kind == "csv":
        return _csv(results)
    if kind == "json":
        return json.dumps(list(results), indent=2) + "\n"
    return "".join(json.dumps(result) + "\n" for result in results)


def write_sqlite(results: Rows, path: Path, table: str = "results") -> None:
    """Add a row for each result; lists and objects as JSON text. A `UsageError` if `path` is of another kind."""
    rows = [_cells(result) for result in results]
    columns = list(rows[0]) if rows else ["model"]
    names = ", ".join(f'"{name}"' for name in columns)
    marks = ", ".join("?" for _ in columns)
    try:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({names})")
            # An earlier version's table has fewer fields.
            known = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
            for name in columns if known & set(columns) else ():
                if name not in known:
                    database.execute(f'ALTER TABLE {table} ADD COLUMN "{name}"')
            database.executemany(
                f"INSERT INTO {table} ({names}) VALUES ({marks})", [list(row.values()) for row in rows]
            )
    except sqlite3.DatabaseError as error:
        raise UsageError(f"{path}: {error}", fix="Name another file.") from error


def _csv(results: Rows) -> str:
    output = io.StringIO()
    rows = [_cells(result) for result in results]
    if rows:
        writer = csv.DictWriter(output, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return output.getvalue()


def _cells(result: Mapping[str, Any]) -> dict[str, object]:
    """A result as a flat row of text, numbers and None."""
    return {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in result.items()}


def _spread(result: Mapping[str, Any], name: str) -> str:
    """Half the width of an interval, relative to its middle; nothing if there is no interval."""
    low, high = result[f"{name}_low"], result[f"{name}_high"]
    return "" if low is None or high is None or high <= 0 else f" ±{100 * (high - low) / (high + low):.1f}%"


def short_time(seconds: float | None) -> str:
    """A duration with three digits, in milliseconds or seconds: ``6.93 ms``, ``1.72 s``."""
    if seconds is None:
        return "-"
    return f"{number(1000 * seconds)} ms" if seconds < 0.1 else f"{number(seconds)} s"


def or_dash(field: str, write: Callable[[Any], str] = number) -> Callable[[Mapping[str, Any]], str]:
    """Writes a field of a result, or a dash where it is None."""
    return lambda each: "-" if each[field] is None else write(each[field])


def _mib(value: float) -> str:
    return megabytes(value * 2**20)


COLUMNS: Mapping[str, Callable[[Any], str]] = {
    "model": lambda each: " ".join(f"{each['model']} {each['quantization']}".split()),
    "device": lambda each: each["device"],
    "backend": lambda each: each["target"],
    "tokens": lambda each: str(lengths_of(each)),
    "size": lambda each: megabytes(each["model_size"]),
    "first token": lambda each: short_time(each["ttft_s"]) + _spread(each, "ttft_s"),
    "prefill tok/s": lambda each: number(each["prefill_tok_s"]) + _spread(each, "prefill_s"),
    "decode tok/s": lambda each: or_dash("decode_tok_s")(each) + _spread(each, "decode_s"),
    "whole": lambda each: short_time(each["e2e_s"]) + _spread(each, "e2e_s"),
    "memory": or_dash("peak_rss_mib", _mib),
    "against the first": lambda each: "-" if each["e2e_speedup"] is None else speedup_in_words(each),
    "parameters": lambda each: f"{each['model_n_params'] / 1e6:.1f} M",
    "threads": or_dash("n_threads"),
    "test": lambda each: each["test"],
    "load": lambda each: short_time(each["load_s"]),
    "KV cache": or_dash("kv_mib", _mib),
    "temp C": lambda each: (
        "-"
        if None in (each["temp_start_c"], each["temp_peak_c"])
        else f"{each['temp_start_c']:.0f} to {each['temp_peak_c']:.0f}"
    ),
    "notes": lambda each: "; ".join(notes(each)),
}
"""The columns of the Markdown table, and the text of a result's cell."""

RESULTS = tuple(COLUMNS)[:11]
"""The columns that people look for."""

NARROW = tuple(name for name in RESULTS if name not in ("size", "whole", "against the first"))

CONDITIONS = ("model", *tuple(COLUMNS)[11:])


def columns(results: Sequence[Result], names: Sequence[str]) -> dict[str, list[str]]:
    """A cell for each result, by column, without the devices and backends that all results share and empty columns."""
    cells = {name: [COLUMNS[name](result) for result in results] for name in names}
    alike = {name for name in ("device", "backend") if len(set(cells.get(name, ()))) == 1}
    return {name: of_name for name, of_name in cells.items() if name not in alike and set(of_name) not in ({"-"}, {""})}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, ["---"] * len(header), *escaped])


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
