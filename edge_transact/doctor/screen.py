"""Prints the checks in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from edge_transact.doctor.check import JOBS, Check, needed_for

_MARGIN = 16


def print_checks(checks: Iterable[Check]) -> None:
    """Prints a line for each check; for missing things also the jobs that need them and how to get them."""
    console = Console(highlight=False)
    for check in checks:
        table = _grid()
        table.add_row(_mark(check.ok), Text(check.name), Text(check.found))
        console.print(table)
        if not check.ok:
            # Not wrapped, so that the fix can be copied.
            if jobs := ", ".join(needed_for(check.name)):
                console.print(Text(" " * _MARGIN + f"needed for: {jobs}", style="dim"), soft_wrap=True)
            console.print(Text(" " * _MARGIN + check.fix, style="cyan"), soft_wrap=True)


def print_jobs(missing: Mapping[str, Sequence[str]]) -> None:
    """Prints which jobs this machine can do, and what the others lack."""
    console = Console(highlight=False)
    table = _grid()
    for name, lacking in missing.items():
        answer = Text(JOBS[name].does)
        if lacking:
            answer.append(f": needs {', '.join(lacking)}", style="dim")
        table.add_row(_mark(not lacking), Text(name), answer)
    console.print()
    console.print("What can be done here", style="bold")
    console.print(table)


def _grid() -> Table:
    return Table.grid(Column(width=2), Column(width=_MARGIN - 4), Column(overflow="fold"), padding=(0, 1))


def _mark(ok: bool) -> Text:
    return Text("ok", style="green") if ok else Text("--", style="yellow")
