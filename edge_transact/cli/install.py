"""``edge-transact install``: the weights of models into an app's own files on a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_transact.cli.common import JsonOption, guarded, show


@guarded
def install(
    source: Annotated[Path, typer.Argument(metavar="APP|DIST", help="What `bundle` wrote, or one DIST.")],
    device: Annotated[
        str | None,
        typer.Option(metavar="SERIAL", help="The phone, as `adb devices` lists it.", show_default="the only one"),
    ] = None,
    application_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The app that gets a DIST.", show_default="the project's")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the weights of models that are too large for an app into its files on a phone, over adb.

    The app must be installed. Files that are there already aren't sent again, so an interrupted call can be repeated.
    Every file is compared with its sha256 on the phone, and the app compares it again before it loads a model.

    **Examples**

    `edge-transact install app`

    `edge-transact install dist --application-id org.example.chat`
    """
    from edge_transact.bundling.install import install as send

    result = send(source, device=device, application_id=application_id)

    def text() -> None:
        if not result.models:
            typer.echo(f"All models of {source} travel in the app.")
            return
        sent = f"{len(result.files)} files, {result.bytes / 1e6:,.1f} MB" if result.files else "nothing new"
        typer.echo(f"{', '.join(result.models)} on {result.device} for {result.application_id}: {sent}")

    show(result.to_dict(), as_json, text)
