"""``edge-transact cache``: results of earlier runs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from edge_transact import cache as store
from edge_transact.cache import KINDS
from edge_transact.cli.common import JsonOption, guarded, show
from edge_transact.errors import UsageError, did_you_mean
from edge_transact.formatting import megabytes
from edge_transact.options.command_line import completion


@guarded
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Delete all entries, or those of one --kind.")] = False,
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help=f"Only this kind: {', '.join(KINDS)}.", autocompletion=completion(KINDS)),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the cached results of earlier runs, or delete them.

    An unchanged model isn't converted, pruned or quantized twice, and an unchanged definition isn't compiled twice. A
    host library of other widths takes most of its kernels from an earlier one.
    The cache is in `$EDGE_TRANSACT_CACHE`, or else in `~/.cache/edge-transact`, and can be deleted at any time.
    `--no-cache`, with any command, runs every stage again. What an interrupted `prune`, `heal`, `build` or `eval` has
    done is there too, as `unfinished`, until the same command has gone on with it. `times` are how long steps took on
    this machine, from which a command says how long it will take.

    **Examples**

    `edge-transact cache`

    `edge-transact cache --clear --kind weights`

    `edge-transact cache --clear --kind unfinished`
    """
    if kind is not None and kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}", fix=did_you_mean(kind, KINDS))
    kinds = [kind] if kind else list(KINDS)
    entries = store.clear(kinds) if clear else [entry for entry in store.entries() if entry.kind in kinds]
    total = sum(entry.size_bytes for entry in entries)
    result = {
        "directory": str(store.cache_directory()),
        "cleared": clear,
        "size_bytes": total,
        "entries": [asdict(entry) | {"path": str(entry.path)} for entry in entries],
    }

    def text() -> None:
        console = Console(highlight=False)
        if clear:
            console.print(f"deleted {len(entries)} entries, {megabytes(total)}")
            return
        console.print(f"{len(entries)} entries, {megabytes(total)} in {store.cache_directory()}", soft_wrap=True)
        if not entries:
            return
        table = Table("used", "kind", "what", "size", box=None, padding=(0, 2, 0, 0))
        table.columns[3].justify = "right"
        # A library has dozens.
        rows = [entry for entry in entries if entry.kind != "kernels" or kind]
        for entry in rows:
            used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
            table.add_row(used, entry.kind, entry.what or "remains of a killed process", megabytes(entry.size_bytes))
        if kernels := [entry for entry in entries if entry not in rows]:
            table.add_row(
                "", "kernels", f"{len(kernels)} kernels", megabytes(sum(entry.size_bytes for entry in kernels))
            )
        console.print(table)

    show(result, as_json, text)
