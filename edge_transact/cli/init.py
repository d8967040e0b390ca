"""``edge-transact init``: an edge-transact.toml in the working directory."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_transact.cli.common import JsonOption, guarded, show


@guarded
def init(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A directory, a hub id, a .gguf file or a demo: name.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="What to build for: android, android-cpu, host, iphone; several with commas.")
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Share of attention and MLP parameters to remove.")] = None,
    quant: Annotated[str | None, typer.Option(help="q4f16_0, q4f16_1, q4f32_1, q0f16 or q0f32.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens that a sequence may have.")] = None,
    json_schema: Annotated[
        bool, typer.Option("--json-schema", help="Print the schema of edge-transact.toml instead.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Change an existing file: what isn't given stays, comments too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write an `edge-transact.toml`, so that `edge-transact build` alone does the whole job in this directory.

    **Examples**

    `edge-transact init demo:smollm2 --target android,host`

    `edge-transact init --force --ratio 0.4`

    `edge-transact init --json-schema > edge-transact.schema.json`
    """
    import json
    from pathlib import Path

    from edge_transact import project
    from edge_transact.project.edit import write_project

    if json_schema:
        typer.echo(json.dumps(project.json_schema(), indent=2))
        return
    path = Path(project.FILE)
    options = {"model": model, "target": target, "ratio": ratio, "quant": quant, "context": context}
    written = write_project(path, options, force=force)
    result = {"path": str(path.absolute()), **written.model_dump(exclude_none=True)}

    def text() -> None:
        targets = ", ".join(written.build.target)
        typer.echo(f"{path}: {written.model} for {targets}, into {written.output}\nNext: edge-transact build")

    show(result, as_json, text)
