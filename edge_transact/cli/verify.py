"""``edge-transact verify``: whether outputs are as they were written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edge_transact.cli.common import JsonOption, guarded, show


@guarded
def verify(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Checkpoints, DISTs, projects, GGUF files, APKs, or the cache."),
    ],
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Also compute the answer that a DIST's build recorded, on this host.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare outputs, byte by byte, with the sha256 that was recorded when they were written.

    Exits with 1 if a file is damaged, missing, edited or unknown, and also if nothing was recorded: what another
    program wrote can't be verified. Model cards, and what people add to a project, aren't compared.

    Of an APK, check that entries and models are complete, and that native code fits 64-bit ARM and 16 KB pages.

    **Examples**

    `edge-transact verify pruned dist`

    `edge-transact verify dist --tokens`

    `edge-transact verify app.apk`

    `edge-transact verify dist --json | jq '.checks[].found'`
    """
    from edge_transact import verification

    checks = verification.verify(*paths, tokens=tokens)

    def text() -> None:
        for check in checks:
            print(f"{'ok' if check.ok else '--'} {check.name}: {check.found}. {check.fix}".rstrip())

    show({"checks": [asdict(check) for check in checks]}, as_json, text)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
