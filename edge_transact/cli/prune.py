"""``edge-transact prune``: a smaller checkpoint of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_transact.cli.common import ForceOption, JsonOption, guarded, show


@guarded
def prune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint directory, a hub id, a GGUF file or a demo: name.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The checkpoint directory to write.")],
    ratio: Annotated[
        float | None,
        typer.Option(help="Budget: the share of attention and MLP parameters to remove.", show_default=False),
    ] = None,
    target_params: Annotated[
        str | None, typer.Option(help="Budget: parameters of the pruned model, such as 1.3B or 900M.")
    ] = None,
    widths: Annotated[
        Path | None, typer.Option(help="Budget: a JSON list of the widths of every layer, as --json prints.")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(help="Budget: query heads that every layer keeps, in whole KV groups.")
    ] = None,
    intermediate: Annotated[int | None, typer.Option(help="Budget: MLP dims that every layer keeps.")] = None,
    method: Annotated[str, typer.Option(help="What decides which heads and dims stay.")] = "transact",
    allocation: Annotated[
        str, typer.Option(help="How a ratio is spread over layers: uniform. --widths says it layer by layer.")
    ] = "uniform",
    shots: Annotated[int, typer.Option(help="Shrink in so many steps, scoring again at each.")] = 1,
    bucket: Annotated[
        int, typer.Option(help="Round MLP widths that follow from a ratio or a parameter count to multiples of it.")
    ] = 32,
    calibration: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="What the activations are measured on; given several times, the same share of each.",
            show_default="demo:sotu",
        ),
    ] = None,
    calibration_tokens: Annotated[int, typer.Option(help="How much of that text.")] = 16384,
    calibration_window: Annotated[
        int | None,
        typer.Option(help="In windows of so many tokens.", show_default="512, or the model's context if shorter"),
    ] = None,
    packing: Annotated[
        str, typer.Option(help="Cut windows from the documents joined, or from each by itself: joined or documents.")
    ] = "joined",
    seed: Annotated[int, typer.Option(help="Which windows; the same seed writes the same bytes.")] = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a model smaller: attention heads and MLP dims go, without training.

    Scores are TransAct's: how large the activations are that enter `o_proj` and `down_proj` on the calibration text.
    Query heads go with the KV head that they share. On models of fewer than 8 KV heads a `--ratio` is cut from the
    MLP alone; `--heads` cuts heads explicitly. Give one budget.

    **Examples**

    `edge-transact prune demo:smollm2 --ratio 0.3 -o pruned`

    `edge-transact prune demo:smollm2 --target-params 100M --shots 8 -o pruned`

    `edge-transact prune demo:smollm2 --heads 6 --intermediate 1024 -o pruned`

    `edge-transact prune model.gguf --widths widths.json --calibration notes.txt -o pruned --json | jq .ratio`
    """
    from edge_transact.memory import peak_rss_mib
    from edge_transact.prune import Budget, parse_parameters
    from edge_transact.prune import prune as prune_model

    parameters = parse_parameters(target_params) if target_params is not None else None
    result = prune_model(
        model,
        output,
        Budget(ratio, parameters, widths, heads, intermediate),
        method=method,
        allocation=allocation,
        shots=shots,
        bucket=bucket,
        calibration=calibration or "demo:sotu",
        calibration_tokens=calibration_tokens,
        calibration_window=calibration_window,
        packing=packing,
        seed=seed,
        force=force,
    )

    def text() -> None:
        from rich.console import Console
        from rich.table import Table

        from edge_transact.widths import describe

        table = Table(title=f"{output} in {result.seconds:.0f} s", title_justify="left", show_header=False)
        values = result.to_dict()
        table.add_row("parameters", f"{values['parameters']:,} of {values['source_parameters']:,}")
        table.add_row("attention and MLP removed", f"{values['ratio']:.2%}")
        for line in describe(result.checkpoint.plan):
            table.add_row(*line.split(": "))
        console = Console()
        console.print(table)
        console.print(f"Next: edge-transact eval {model} {output} --max-windows 16", highlight=False, soft_wrap=True)

    show(result.to_dict() | {"peak_rss_mib": peak_rss_mib()}, as_json, text)
