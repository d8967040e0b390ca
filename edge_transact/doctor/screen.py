"""Prints the checks, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge_transact.doctor.check import Check
from edge_transact.doctor.jobs import JOBS, needed_for

_MARGIN = 16


def print_checks(checks: Iterable[Check]) -> None:
    """Prints one line per check, and for missing things which jobs need them and how to get them."""
    console = Console(highlight=False)
    for check in checks:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=2)
        table.add_column(width=_MARGIN - 4)
        table.add_column(overflow="fold")
        table.add_row(_mark(check.ok), Text(check.name), Text(check.found))
        console.print(table)
        if not check.ok:
            jobs = ", ".join(needed_for(check.name))
            # Not wrapped, so that the fix can be copied.
            if jobs:
                console.print(Text(" " * _MARGIN + f"needed for: {jobs}", style="dim"), soft_wrap=True)
            console.print(Text(" " * _MARGIN + check.fix, style="cyan"), soft_wrap=True)


def print_jobs(missing: Mapping[str, Sequence[str]]) -> None:
    """Prints which jobs this machine can do, and what the others need."""
    console = Console(highlight=False)
    table = Table.grid(padding=(0, 1))
    table.add_column(width=2)
    table.add_column(width=_MARGIN - 4)
    table.add_column(overflow="fold")
    for name, lacking in missing.items():
        answer = Text(JOBS[name].does)
        if lacking:
            answer.append(f": needs {', '.join(lacking)}", style="dim")
        table.add_row(_mark(not lacking), Text(name), answer)
    console.print()
    console.print("What can be done here", style="bold")
    console.print(table)


def _mark(ok: bool) -> Text:
    return Text("ok", style="green") if ok else Text("--", style="yellow")
