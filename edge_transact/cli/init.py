"""``edge-transact init``: an edge-transact.toml in the working directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from edge_transact.building.options import BuildOptions
from edge_transact.cli.common import JsonOption, guarded, show
from edge_transact.project import FILE, given_in, json_schema
from edge_transact.pruning.options import BUDGET_KEYS, PruneChoices


@guarded
def init(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A directory, a hub id, a .gguf file or a demo: name.")
    ] = None,
    *,
    options: BuildOptions,
    pruning: Annotated[PruneChoices, "Prune first"],
    print_schema: Annotated[bool, typer.Option("--json-schema", help=f"Print the schema of {FILE} instead.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Change an existing file; what isn't given stays, comments included.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write an `edge-transact.toml`, with which `edge-transact build` alone does the whole job.

    **Examples**

    `edge-transact init demo:smollm2 --target android,host`

    `edge-transact init --force --ratio 0.4`

    `edge-transact init --json-schema > edge-transact.schema.json`
    """
    from edge_transact.project import write_project

    if print_schema:
        typer.echo(json.dumps(json_schema(), indent=2))
        return
    path = Path(FILE)
    written = write_project(path, {"model": model} | given_in(options) | given_in(pruning), force=force)
    result = {"path": str(path.absolute()), **written.model_dump(mode="json", exclude_none=True)}

    def text() -> None:
        targets = ", ".join(written.build.target)
        pruned = ", ".join(f"{key} {value}" for key, value in result.get("prune", {}).items() if key in BUDGET_KEYS)
        typer.echo(
            f"{path}: {written.model}{pruned and f', pruned as [prune] says ({pruned}),'} for {targets}, "
            f"into {written.output}\nNext: edge-transact build"
        )

    show(result, as_json, text)
