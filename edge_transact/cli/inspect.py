"""``edge-transact inspect``: the size and cost of a model or a DIST."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.cli.common import ForceOption, JsonOption, guarded, print_table, show
from edge_transact.formatting import megabytes
from edge_transact.inspection import InspectOptions, inspect_model, picture_begins, plot_flops
from edge_transact.runtimes import verdicts
from edge_transact.widths import WidthPlan, describe

PLOT_CONTEXTS = (128, 256, 512, 1024, 2048, 4096)


@guarded
def inspect(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL|DIST...", help="Checkpoints, hub ids, GGUF files, demo: names, or DISTs."),
    ],
    options: InspectOptions,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot FLOPs by context to this .png or .svg file.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print widths, parameters, FLOPs, KV cache and memory of models, from their configuration alone.

    **Examples**

    `edge-transact inspect demo:smollm2`

    `edge-transact inspect demo:smollm2 pruned --contexts 128,512,2048 --plot flops.png`

    `edge-transact inspect dist --json | jq .memory_bytes`
    """
    if plot:
        refuse_existing(plot, force, apart_from=models, begins=picture_begins(plot))
    inspections = [inspect_model(model, options) for model in models]
    results = [inspection.to_dict() for inspection in inspections]
    if plot:
        plot_flops(inspections, sorted(set(options.contexts)) or PLOT_CONTEXTS, plot, force=force)

    def text() -> None:
        console = Console()
        _print_costs(console, [inspection.plan for inspection in inspections], results)
        for result in results:
            if "contexts" in result:
                _print_contexts(console, result)
        if plot:
            console.print(f"FLOPs by context: {plot}", highlight=False)

    show(results[0] if len(results) == 1 else {"models": results}, as_json, text)


def _print_costs(console: Console, plans: Sequence[WidthPlan], results: Sequence[Mapping[str, Any]]) -> None:
    """A column for each model; those after the first say how far they are from it."""
    columns = [_costs(plan, result, results[0]) for plan, result in zip(plans, results, strict=True)]
    names = dict.fromkeys(name for column in columns for name in column)
    header = ["", *(result["model"] for result in results)]
    rows = [[name, *(column.get(name, "-") for column in columns)] for name in names]
    # Names stay whole where there is room for the models beside them.
    first = Column(overflow="fold", no_wrap=console.width >= 28 + 16 * len(results))
    table = Table(first, *(Column(name, overflow="fold") for name in header[1:]))
    if len(results) == 1:
        table.title, table.title_justify, table.show_header = header[1], "left", False
    print_table(console, table, header, rows)


def _costs(plan: WidthPlan, result: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, str]:
    def change(name: str, *, in_context: bool = False) -> str:
        if result is first or not first[name] or (in_context and result["context"] != first["context"]):
            return ""
        return f" ({result[name] / first[name] - 1:+.0%})"

    rows = {
        "parameters": f"{result['parameters']:,}{change('parameters')}",
        "layers": f"{plan.num_hidden_layers}, hidden size {plan.hidden_size}, vocabulary {plan.vocab_size:,}",
    }
    for line in describe(plan):
        name, value = line.split(": ")
        rows[f"  {name}"] = value
    padding = result["kv_padding_bytes_per_token"]
    weights = result["memory_bytes"] - result["kv_bytes"] - result["workspace_bytes"]
    rows |= {
        "quantization": f"{result['quantization']}, {result['bits_per_parameter']:.3f} bits a parameter",
        "weights": f"{megabytes(result['weights_bytes'])}{change('weights_bytes')}",
        "context": f"{result['context']:,} tokens",
        "attention launches a token": f"{result['attention_launches_per_token']}",
        "KV bytes a token": f"{result['kv_bytes_per_token']:,}"
        + (f", {padding:,} of them padding" if padding else "")
        + change("kv_bytes_per_token"),
        "FLOPs": f"{result['prefill_flops'] / 1e9:,.1f} G prefill, "
        f"{result['flops_per_token'] / 1e9:.3f} G a decoded token{change('flops_per_token', in_context=True)}",
        "memory": f"{megabytes(result['memory_bytes'])}"
        f"{change('memory_bytes', in_context=True)}: weights {megabytes(weights)}, "
        f"KV cache {megabytes(result['kv_bytes'])}, workspace about {megabytes(result['workspace_bytes'])}",
    }
    return rows | {f"fits {runtime}": said for runtime, said in verdicts(plan).items()}


def _print_contexts(console: Console, result: Mapping[str, Any]) -> None:
    names = ("context", "prefill GFLOPs", "decode GFLOPs a token", "KV cache", "memory")
    rows = [
        (
            f"{at['context']:,}",
            f"{at['prefill_flops'] / 1e9:,.1f}",
            f"{at['decode_flops'] / 1e9:.3f}",
            megabytes(at["kv_bytes"]),
            megabytes(at["memory_bytes"]),
        )
        for at in result["contexts"]
    ]
    print_table(console, Table(*names, title=result["model"], title_justify="left"), names, rows)
