"""``edge-transact prune``: a smaller checkpoint of a model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from edge_transact.cli.common import ForceOption, JsonOption, guarded, show

LIMIT = partial(typer.Option, rich_help_panel="Limits, which may go together")
FIXED = partial(typer.Option, rich_help_panel="Instead of limits")
METHOD = partial(typer.Option, rich_help_panel="How")
TEXT = partial(typer.Option, rich_help_panel="Calibration")


@guarded
def prune(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint directory, a hub id, a GGUF file or a demo: name.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The checkpoint directory to write.")],
    ratio: Annotated[
        float | None,
        LIMIT(help="The share of attention and MLP parameters to remove.", show_default=False),
    ] = None,
    target_params: Annotated[str | None, LIMIT(help="Parameters of the pruned model, such as 1.3B or 900M.")] = None,
    max_weight_bytes: Annotated[str | None, LIMIT(help="Bytes of all weights in --quant, such as 600MB.")] = None,
    max_kv_bytes_per_token: Annotated[
        str | None, LIMIT(help="Bytes that a token takes in the KV cache, such as 12k.")
    ] = None,
    max_memory: Annotated[
        str | None, LIMIT(help="Weights, KV cache of --context tokens and workspace, such as 1.5GiB.")
    ] = None,
    widths: Annotated[Path | None, FIXED(help="A JSON list of the widths of every layer, as --json prints.")] = None,
    heads: Annotated[int | None, FIXED(help="Query heads that every layer keeps, in whole KV groups.")] = None,
    intermediate: Annotated[int | None, FIXED(help="MLP dims that every layer keeps.")] = None,
    quant: Annotated[str, LIMIT(help="The quantization that limits on bytes are counted in.")] = "q4f16_0",
    context: Annotated[int, LIMIT(help="Tokens of --max-memory.")] = 2048,
    method: Annotated[
        str,
        METHOD(help="What decides which units stay: best, transact, llm-pruner, wanda, flap, magnitude or random."),
    ] = "best",
    allocation: Annotated[
        str | None,
        METHOD(
            help="How limits are spread over layers and units: uniform, sensitivity or budgeted. By default budgeted "
            "with the method best, and uniform with the others.",
            show_default=False,
        ),
    ] = None,
    units: Annotated[
        str | None,
        METHOD(
            help="What limits may cut: mlp, groups, queries, values, queries-keys; several with commas.",
            show_default=False,
        ),
    ] = None,
    compensate: Annotated[
        bool | None,
        METHOD(
            "--compensate/--no-compensate",
            help="Solve o_proj and down_proj anew on the calibration text. By default only with the method best.",
            show_default=False,
        ),
    ] = None,
    shots: Annotated[int, METHOD(help="Shrink in so many steps, scoring again at each.")] = 1,
    bucket: Annotated[int, METHOD(help="MLP widths that follow from limits are multiples of it.")] = 32,
    calibration: Annotated[
        list[str] | None,
        TEXT(
            metavar="TEXT",
            help="What the activations are measured on; given several times, the same share of each.",
            show_default="demo:sotu",
        ),
    ] = None,
    calibration_tokens: Annotated[int, TEXT(help="How much of that text.")] = 16384,
    calibration_window: Annotated[
        int | None,
        TEXT(help="In windows of so many tokens.", show_default="512, or the model's context if shorter"),
    ] = None,
    packing: Annotated[
        str, TEXT(help="Cut windows from the documents joined, or from each by itself: joined or documents.")
    ] = "joined",
    seed: Annotated[int, TEXT(help="Which windows; the same seed writes the same bytes.")] = 0,
    report: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write figures, a page and report.json on it into this directory."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what an interrupted run with the same options left.")
    ] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a model smaller: KV groups, dims inside heads and MLP dims go, without training.

    The method `best` predicts what each unit costs in loss, cuts where that is least, and solves the projections that
    consume what was cut anew. The others are the published ones, each layer cut alike: `transact` keeps the largest
    activations. Limits may go together; query heads go with the KV head that they share.

    **Examples**

    `edge-transact prune demo:smollm2 --ratio 0.3 -o pruned`

    `edge-transact prune demo:smollm2 --max-weight-bytes 60MB --max-kv-bytes-per-token 16k -o pruned`

    `edge-transact prune demo:smollm2 --target-params 100M --method transact --shots 8 -o pruned`

    `edge-transact prune demo:smollm2 --heads 6 --intermediate 1024 -o pruned`

    `edge-transact prune model.gguf --widths widths.json --calibration notes.txt -o pruned --json | jq .ratio`
    """
    from edge_transact.prune import Budget
    from edge_transact.prune import prune as prune_model
    from edge_transact.system.memory import peak_rss_mib

    text_of_report = ""
    if report is not None:
        from edge_transact.prune.report.page import prepare_report

        text_of_report = prepare_report(report, model=model, output=output, force=force)
    result = prune_model(
        model,
        output,
        Budget.from_options(
            ratio=ratio,
            target_params=target_params,
            max_weight_bytes=max_weight_bytes,
            max_kv_bytes_per_token=max_kv_bytes_per_token,
            max_memory=max_memory,
            widths=widths,
            heads=heads,
            intermediate=intermediate,
            quant=quant,
            context=context,
        ),
        method=method,
        allocation=allocation,
        units=[unit.strip() for unit in units.split(",")] if units else (),
        compensate=compensate,
        shots=shots,
        bucket=bucket,
        calibration=calibration or "demo:sotu",
        calibration_tokens=calibration_tokens,
        calibration_window=calibration_window,
        packing=packing,
        seed=seed,
        resume=resume,
        force=force,
    )

    values = result.to_dict() | {"peak_rss_mib": peak_rss_mib()}
    if report is not None:
        from edge_transact.prune.report.page import write_report

        write_report(result, report, text_of_report, force=force)
        values["report"] = str(report)

    def text() -> None:
        from rich.console import Console
        from rich.table import Table

        from edge_transact.widths import describe

        table = Table(title=f"{output} in {result.seconds:.0f} s", title_justify="left", show_header=False)
        table.add_row("parameters", f"{values['parameters']:,} of {values['source_parameters']:,}")
        table.add_row("attention and MLP removed", f"{values['ratio']:.2%}")
        for line in describe(result.checkpoint.plan):
            table.add_row(*line.split(": "))
        if report is not None:
            table.add_row("report", str(report / "index.html"))
        console = Console()
        console.print(table)
        console.print(f"Next: edge-transact eval {model} {output} --max-windows 16", highlight=False, soft_wrap=True)

    show(values, as_json, text)
