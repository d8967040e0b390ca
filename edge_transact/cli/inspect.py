"""``edge-transact inspect``: the size and cost of a model or a DIST."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_transact.cli.common import JsonOption, guarded, show

if TYPE_CHECKING:
    from rich.console import Console

    from edge_transact.widths import WidthPlan

PLOT_CONTEXTS = (128, 256, 512, 1024, 2048, 4096)


@guarded
def inspect(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL|DIST...", help="Checkpoints, hub ids, GGUF files, demo: names, or DISTs."),
    ],
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens in the context.", show_default="2048, or the DIST's")
    ] = None,
    contexts: Annotated[str | None, typer.Option(help="Print a table of several contexts, e.g. 128,512,2048.")] = None,
    quant: Annotated[
        str | None, typer.Option(help="Quantization in which bytes are counted.", show_default="q4f16_0, or the DIST's")
    ] = None,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="List the kernels that a decoded token launches on a DIST's GPU.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Plot FLOPs by context to this .png or .svg file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print widths, parameters, FLOPs, KV cache and memory of models, from their configuration alone.

    With --kernels, print what a token takes on the GPU, too: for each kernel of a DIST's libraries its launches, the
    bytes that it reads and writes, how many times the least possible that is, its FLOPs, work groups and threads.

    **Examples**

    `edge-transact inspect demo:smollm2`

    `edge-transact inspect demo:smollm2 pruned --contexts 128,512,2048 --plot flops.png`

    `edge-transact inspect dist --json | jq .memory_bytes`

    `edge-transact inspect dist --kernels`
    """
    from edge_transact.inspection import inspect_kernels, inspect_model, plot_flops

    several = _contexts(contexts)
    inspections = [inspect_model(model, context=context, quantization=quant) for model in models]
    results = [inspection.to_dict() for inspection in inspections]
    for inspection, result in zip(inspections, results, strict=True):
        if several:
            result["contexts"] = [inspection.at(tokens) for tokens in several]
        if kernels:
            result["kernels"] = inspect_kernels(inspection)
    if plot:
        plot_flops(inspections, several or PLOT_CONTEXTS, plot)

    def text() -> None:
        from rich.console import Console

        console = Console()
        for inspection, result in zip(inspections, results, strict=True):
            _print(console, inspection.plan, result)
        if plot:
            console.print(f"FLOPs by context: {plot}", highlight=False)

    show(results[0] if len(results) == 1 else {"models": results}, as_json, text)


def _contexts(text: str | None) -> list[int]:
    from edge_transact.errors import UsageError

    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--contexts {text!r} is not a list of token counts", fix="Write them as 128,512,2048.")
    return sorted({int(part) for part in parts})


def _print(console: Console, plan: WidthPlan, result: Mapping[str, Any]) -> None:
    from rich.table import Table

    from edge_transact.widths import describe

    mib = 1 << 20
    table = Table(title=result["model"], title_justify="left", show_header=False)
    table.add_row("parameters", f"{result['parameters']:,}")
    table.add_row("layers", f"{plan.num_hidden_layers}, hidden size {plan.hidden_size}, vocabulary {plan.vocab_size:,}")
    for line in describe(plan):
        name, value = line.split(": ")
        table.add_row(f"  {name}", value)
    table.add_row(
        f"weights, {result['quantization']}",
        f"{result['weights_bytes'] / mib:.1f} MiB, {result['bits_per_parameter']:.3f} bits a parameter",
    )
    table.add_row("attention launches a token", f"{result['attention_launches_per_token']}")
    padding = result["kv_padding_bytes_per_token"]
    padded = f", {padding:,} of them padding" if padding else ""
    table.add_row("KV bytes a token", f"{result['kv_bytes_per_token']:,}{padded}")
    table.add_row(
        f"FLOPs at {result['context']:,} tokens",
        f"{result['prefill_flops'] / 1e9:,.1f} G prefill, {result['flops_per_token'] / 1e9:.3f} G a decoded token",
    )
    weights = result["memory_bytes"] - result["kv_bytes"] - result["workspace_bytes"]
    table.add_row(
        f"memory at {result['context']:,} tokens",
        f"{result['memory_bytes'] / mib:.1f} MiB: weights {weights / mib:.1f}, KV "
        f"{result['kv_bytes'] / mib:.1f}, workspace about {result['workspace_bytes'] / mib:.1f}",
    )
    for runtime, misfit in result["runtimes"].items():
        table.add_row(f"fits {runtime}", f"no: {misfit}" if misfit else "yes")
    console.print(table)
    if "contexts" in result:
        rows = Table("context", "prefill GFLOPs", "decode GFLOPs a token", "KV MiB", "memory MiB")
        for at in result["contexts"]:
            rows.add_row(
                f"{at['context']:,}",
                f"{at['prefill_flops'] / 1e9:,.1f}",
                f"{at['decode_flops'] / 1e9:.3f}",
                f"{at['kv_bytes'] / mib:.1f}",
                f"{at['memory_bytes'] / mib:.1f}",
            )
        console.print(rows)
    for target, step in result.get("kernels", {}).items():
        _print_kernels(console, target, step)


def _print_kernels(console: Console, target: str, step: Mapping[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"{target}: a decoded token that attends to {step['context']:,}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.add_column("kernel, its parameters", overflow="fold")
    for column in ("launches", "KiB", "/ least", "MFLOPs", "groups", "threads"):
        table.add_column(column, justify="right")
    for kernel in step["kernels"]:
        groups = "-".join(str(count) for count in dict.fromkeys(kernel["groups"]))
        name = "\n".join([kernel["name"], *(f"  {parameter}" for parameter in kernel["parameters"])])
        table.add_row(name, *_figures(kernel), groups, f"{kernel['threads']}")
    table.add_section()
    table.add_row("total", *_figures(step))
    console.print(table)


def _figures(of: Mapping[str, Any]) -> tuple[str, ...]:
    ratio = f"{of['bytes'] / of['least_bytes']:.2f}" if of["least_bytes"] else "-"
    return f"{of['launches']}", f"{of['bytes'] / 1024:,.1f}", ratio, f"{of['flops'] / 1e6:,.1f}"
