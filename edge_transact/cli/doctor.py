"""``edge-transact doctor``: what is missing for which job, and how to install it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from edge_transact.cli.common import JsonOption, guarded, show
from edge_transact.doctor import JOBS, Check, examine, needed_for
from edge_transact.errors import UsageError, did_you_mean
from edge_transact.options.command_line import completion

_MARGIN = 16


@guarded
def doctor(
    job: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="JOB",
            help="Exit with 1 unless this job can be done here. Can be repeated.",
            autocompletion=completion(JOBS),
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List what each job needs on this machine, and how to install what is missing.

    Builds need Python packages only; phones, apps and the hub need more. `--for` fails if a job can't be done here:
    `prune`, `host`, `android`, `android-cpu`, `android-x86_64`, `iphone`, `demo`, `gguf`, `parquet`, `plot`,
    `tasks`, `hub`, `bench`, `runner`, `mlc`, `app`, `install`.

    **Examples**

    `edge-transact doctor`

    `edge-transact doctor --for app`

    `edge-transact doctor --json | tail -1 | jq -r '.checks[] | select(.ok | not) | .fix'`
    """
    wanted = job or []
    for name in wanted:
        if name not in JOBS:
            raise UsageError(f"unknown job {name!r}", fix=did_you_mean(name, JOBS))
    checks = examine()
    passed = {check.name for check in checks if check.ok}
    missing = {name: [check for check in job.needs if check not in passed] for name, job in JOBS.items()}
    result = {
        "checks": [asdict(check) for check in checks],
        "jobs": {name: {"ok": not lacking, "missing": lacking} for name, lacking in missing.items()},
    }

    def text() -> None:
        needs = {name for chosen in wanted for name in JOBS[chosen].needs}
        print_checks([check for check in checks if not wanted or check.name in needs])
        print_jobs({name: lacking for name, lacking in missing.items() if not wanted or name in wanted})

    show(result, as_json, text)
    if any(missing[name] for name in wanted):
        raise typer.Exit(1)


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
