"""``edge-transact plan``: which model for which budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.cli.common import ForceOption, JsonOption, guarded, print_table, show
from edge_transact.inspection import picture_begins
from edge_transact.planning.options import PlanOptions


@guarded
def plan(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="Checkpoints, hub ids, GGUF files or demo: names.")
    ],
    options: PlanOptions,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw all this in a .png or .svg file.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare what can be made of models, dense, cut, in fewer bits or trained, and recommend one for a budget.

    Sizes are counted, times predicted from a profile or a phone's memory bandwidth, and losses of quality are
    published figures; every figure says how it is known. Listed are the candidates that no other beats in everything.
    `--json` has all of them.

    **Examples**

    `edge-transact plan demo:smollm2 --memory 125MB --phone galaxy-s23`

    `edge-transact plan demo:smollm2 --profile host.json --max-decode 4.5ms --max-prefill 256:0.5s --plot p.svg`

    `edge-transact plan demo:smollm2 --max-weight-bytes 70MB --no-heal --json | jq .recommended.commands`
    """
    from edge_transact.planning.run import plan_models, plot_frontier

    if plot:
        refuse_existing(plot, force, apart_from=models, begins=picture_begins(plot))
    planned = plan_models(models, options)
    if plot:
        plot_frontier(planned, plot, force=force)

    def text() -> None:
        console, summary = Console(highlight=False), planned.summary()
        columns = [Column(name, justify="left" if not place else "right") for place, name in enumerate(summary.header)]
        print_table(console, Table(*columns, title=summary.title, title_justify="left"), summary.header, summary.rows)
        for note in planned.notes():
            console.print(note, soft_wrap=True)
        for best in planned.best:
            console.print(f"\n{best.model}, {best.name}:", soft_wrap=True)
            for command in best.commands(options):
                console.print(f"  {command}", soft_wrap=True)

    show(planned.to_dict(), as_json, text)
