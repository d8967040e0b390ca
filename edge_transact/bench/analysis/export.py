"""Results as Markdown, CSV, JSON, JSON lines and SQLite. All but the Markdown table hold every field."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from edge_transact.bench.records.results import Result
from edge_transact.errors import UsageError

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
    "e2e s", "load s", "rss MiB", "kv MiB", "temp C", "notes",
)  # fmt: skip


def _markdown(results: Sequence[Result]) -> str:
    rows = [list(COLUMNS), ["---"] * 6 + ["---:"] * 9 + ["---"]]
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
        f"{result['ttft_s']:.3f}",
        _with_spread(result["prefill_tok_s"], result["prefill_s"], result["prefill_s_std"]),
        _with_spread(result["decode_tok_s"], result["decode_s"], result["decode_s_std"]),
        f"{result['e2e_s']:.3f}" + (f" ± {result['e2e_s_std']:.3f}" if result["e2e_s_std"] is not None else ""),
        _number(result["load_s"], 2),
        _number(result["peak_rss_mib"], 0),
        _number(result["kv_mib"], 1),
        "-" if start_c is None or peak_c is None else f"{start_c:.0f} to {peak_c:.0f}",
        ", ".join(notes(result)),
    ]


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
    return found


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _with_spread(speed: float | None, seconds: float, std_s: float | None) -> str:
    """A speed with the standard deviation that follows, to first order, from that of its seconds."""
    if speed is None:
        return "-"
    return f"{speed:.2f}" + (f" ± {speed * std_s / seconds:.2f}" if std_s is not None and seconds else "")
