"""``edge-transact explain``: where a model's bytes, times and losses are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.cli.common import ForceOption, JsonOption, guarded, print_table, show
from edge_transact.explanation import ExplainOptions, explain_model, plot_blocks
from edge_transact.formatting import megabytes, milliseconds
from edge_transact.inspection import picture_begins


@guarded
def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint, a hub id, a GGUF file or a demo: name.")],
    options: ExplainOptions,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the blocks of all layers in this .png or .svg file.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print where a model's bytes, times and losses are, by layer and block, and which limit binds.

    **Examples**

    `edge-transact explain demo:smollm2`

    `edge-transact explain pruned --profile phone.json --context 1024 --plot blocks.svg`

    `edge-transact explain demo:smollm2 --widths widths.json --json | jq .total`
    """
    if plot:
        refuse_existing(plot, force, apart_from=[model], begins=picture_begins(plot))
    explained = explain_model(model, options)
    if plot:
        plot_blocks(explained, plot, force=force)
    show(explained, as_json, lambda: _print(explained, plot))


def _print(explained: dict[str, Any], plot: Path | None) -> None:
    header = ["layer", "block", "parameters", "weights", "KV cache", "decode", "prefill", "relative loss"]
    rows = [_row(block) for block in (*explained["blocks"], {"layer": None, "block": "all", **explained["total"]})]
    used = [index for index in range(len(header)) if any(row[index] for row in rows)]
    header, *rows = ([row[index] for index in used] for row in (header, *rows))
    print_table(Console(), Table(*header, title=explained["model"], title_justify="left"), header, rows)
    for limit in explained["limits"]:
        binds = ", which binds" if limit["limit"] == explained["binds"] else ""
        print(f"{limit['limit']}: {limit['measured']:,.6g} of {limit['allowed']:,.6g} {limit['unit']}{binds}")
    if plot:
        print(f"blocks: {plot}")


def _row(block: dict[str, Any]) -> list[str]:
    times = [milliseconds(block[name]) if block.get(name) is not None else "" for name in ("decode_s", "prefill_s")]
    loss = f"{block['relative_loss']:.1%}" if block.get("relative_loss") is not None else ""
    layer = "" if block["layer"] is None else str(block["layer"])
    sizes = [megabytes(block[name]) for name in ("weight_bytes", "kv_bytes")]
    return [layer, block["block"], f"{block['parameters']:,}", *sizes, *times, loss]
