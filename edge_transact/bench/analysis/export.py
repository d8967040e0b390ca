"""Results as text: Markdown, CSV, JSON, JSON lines, SQLite. The same fields in all of them but the table for people."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge_transact.errors import UsageError

FORMATS = ("md", "csv", "json", "jsonl", "sqlite")

Result = Mapping[str, Any]


def to_text(results: Sequence[Result], kind: str) -> str:
    """Results in a text format.

    Args:
        results: From `results.make_results`.
        kind: ``md``, ``csv``, ``json`` or ``jsonl``.
    """
    if kind == "md":
        return _markdown(results)
    if kind == "csv":
        return _csv(results)
    if kind == "json":
        return json.dumps(list(results), indent=2) + "\n"
    return "".join(json.dumps(result) + "\n" for result in results)


def write_sqlite(results: Sequence[Result], path: Path) -> None:
    """One row a result in the table ``results``, added to those that are there; lists and objects are JSON text.

    Raises:
        UsageError: `path` is a file of another kind, or its table has other columns.
    """
    columns = list(results[0]) if results else ["model"]
    names = ", ".join(f'"{name}"' for name in columns)
    marks = ", ".join("?" for _ in columns)
    try:
        with sqlite3.connect(path) as database:
            database.execute(f"CREATE TABLE IF NOT EXISTS results ({names})")
            rows = [[_cell(result[name]) for name in columns] for result in results]
            database.executemany(f"INSERT INTO results ({names}) VALUES ({marks})", rows)
    except sqlite3.DatabaseError as error:
        raise UsageError(f"{path}: {error}", fix="Name another file.") from error
    finally:
        if "database" in locals():
            database.close()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _csv(results: Sequence[Result]) -> str:
    output = io.StringIO()
    if results:
        writer = csv.DictWriter(output, list(results[0]))
        writer.writeheader()
        for result in results:
            writer.writerow({name: _cell(value) for name, value in result.items()})
    return output.getvalue()


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
    heat = (result["temp_start_c"], result["temp_peak_c"])
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
        "-" if None in heat else f"{heat[0]:.0f} to {heat[1]:.0f}",
        ", ".join(notes(result)),
    ]


def notes(result: Result) -> list[str]:
    """What a reader of a result has to know before believing it."""
    found = []
    if result["throttled"]:
        found.append("throttled")
    if result["prefill_slow"]:
        found.append("prefill slower than decoding: a bad kernel")
    if not result["tokens_equal"]:
        found.append("tokens differ between repetitions")
    if result["tokens_checked"] and result["tokens_agreed"] < result["tokens_checked"]:
        found.append(f"{result['tokens_agreed']} of {result['tokens_checked']} tokens as in the build's parity record")
    return found


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _with_spread(speed: float | None, seconds: float, spread: float | None) -> str:
    """A speed with the spread of the seconds that it comes from, to first order."""
    if speed is None:
        return "-"
    return f"{speed:.2f}" + (f" ± {speed * spread / seconds:.2f}" if spread is not None and seconds else "")
