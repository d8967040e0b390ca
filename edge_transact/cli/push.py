"""``edge-transact push``: a checkpoint to the model hub."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edge_transact.cli.common import JsonOption, guarded, show


@guarded
def push(
    checkpoint: Annotated[Path, typer.Argument(metavar="DIR", help="A checkpoint that `prune` wrote.")],
    repository: Annotated[
        str, typer.Argument(metavar="ORG/NAME[@BRANCH]", help="Repository to push to; created if it doesn't exist.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Upload a checkpoint with its model card to the model hub.

    Every tensor is checked before anything is uploaded. The card names the repository, and the source model as its base
    model. `hf auth login`, `HF_TOKEN` and `HF_ENDPOINT` work as usual.

    **Examples**

    `edge-transact push smollm2-30 me/SmolLM2-94M-pruned`

    `edge-transact push smollm2-30 me/SmolLM2-94M-pruned@ratio-30 --private`
    """
    from edge_transact.hub.publish import push_checkpoint

    published = push_checkpoint(checkpoint, repository, private=private)
    show(asdict(published), as_json, lambda: typer.echo(f"{published.files} files: {published.url}"))
