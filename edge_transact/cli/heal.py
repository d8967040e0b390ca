"""``edge-transact heal``: recovery training of a pruned checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_transact import progress
from edge_transact.cli.common import LOADING, ForceOption, FreshOption, JsonOption, guarded, show
from edge_transact.heal.options import HealOptions


@guarded
def heal(
    model: Annotated[str, typer.Argument(metavar="DIR", help="A checkpoint directory that prune or heal wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Checkpoint directory to write.")],
    options: HealOptions,
    resume: Annotated[
        bool, typer.Option("--resume", help="Fail if there is no interrupted run with the same options to go on with.")
    ] = False,
    fresh: FreshOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a pruned model to predict again what the model predicts that it was pruned from.

    **Examples**

    `edge-transact heal pruned --train-tokens 65536 -o healed`
    """
    with progress.working(LOADING):
        from edge_transact.heal.run import heal as heal_model
        from edge_transact.system.clock import process_s
        from edge_transact.system.memory import peak_rss_mib

    result = heal_model(model, output, options, resume=resume, fresh=fresh, force=force)
    values = result.to_dict() | {"peak_rss_mib": peak_rss_mib(), "seconds": process_s()}

    def text() -> None:
        print(result)

    show(values, as_json, text)
