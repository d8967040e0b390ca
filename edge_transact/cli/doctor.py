"""``edge-transact doctor``: what is missing for which job, and how to install it."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_transact.cli.common import JsonOption, guarded, show


def _jobs(incomplete: str) -> list[str]:
    from edge_transact.doctor import JOBS

    return [name for name in JOBS if name.startswith(incomplete)]


@guarded
def doctor(
    job: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="JOB",
            help="Exit with 1 unless this job can be done here. Can be repeated.",
            autocompletion=_jobs,
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
    from dataclasses import asdict

    from edge_transact.doctor import JOBS, examine
    from edge_transact.errors import UsageError, did_you_mean

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
        from edge_transact.doctor.screen import print_checks, print_jobs

        needs = {name for chosen in wanted for name in JOBS[chosen].needs}
        print_checks([check for check in checks if not wanted or check.name in needs])
        print_jobs({name: lacking for name, lacking in missing.items() if not wanted or name in wanted})

    show(result, as_json, text)
    if any(missing[name] for name in wanted):
        raise typer.Exit(1)
