"""``edge-transact export``: a model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_transact.cli.common import ForceOption, JsonOption, guarded, show
from edge_transact.export.options import ExportOptions
from edge_transact.options.command_line import completion

FORMATS = ("gguf", "nemotron-nas")


@guarded
def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|DIST", help="A checkpoint, a hub id, a GGUF file, a demo: name, or a DIST.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="GGUF file, or nemotron-nas directory, to write.")
    ],
    options: ExportOptions,
    to: Annotated[
        str, typer.Option("--format", help="gguf or nemotron-nas.", autocompletion=completion(FORMATS))
    ] = "gguf",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model as a GGUF file, which llama.cpp and the phone apps that are made of it load as it is.

    Layers may differ in width. From a DIST of 4-bit weights, every code and every scale is kept. Dims that were cut
    from heads are filled up with zeros, because llama.cpp has one head dim for all layers. The format nemotron-nas is
    a checkpoint that vLLM and mlx-lm read, where only MLPs differ, in multiples of 256.

    **Examples**

    `edge-transact export pruned -o pruned.gguf`

    `edge-transact export dist -o pruned.Q4_0.gguf`

    `edge-transact export demo:smollm2 --type q8_0 -o smollm2.Q8_0.gguf --json | jq .size_bytes`

    `edge-transact prune demo:smollm2 --ratio 0.3 --for vllm -o pruned-256`

    `edge-transact export pruned-256 --format nemotron-nas -o pruned-nas`
    """
    from edge_transact.errors import UsageError, did_you_mean

    if to == "nemotron-nas":
        if options.kind or options.pre:
            raise UsageError("--type and --pre are for gguf", fix="Leave them out, or leave out --format.")
        from edge_transact.export.nemotron_nas import export_nemotron_nas

        written = export_nemotron_nas(model, output, force=force)
        show(written, as_json, lambda: typer.echo(f"Next: mlx_lm.generate --model {output}"))
        return
    if to != "gguf":
        raise UsageError(f"unknown format {to!r}", fix=did_you_mean(to, FORMATS))
    from edge_transact.export.gguf import export_gguf

    result = export_gguf(model, output, kind=options.kind, pre=options.pre, force=force)

    def text() -> None:
        from rich.console import Console
        from rich.table import Table

        from edge_transact.formatting import megabytes

        table = Table(title=str(output), title_justify="left", show_header=False)
        table.add_row("architecture", result.architecture)
        table.add_row("size", megabytes(result.size_bytes))
        table.add_row("matrices", ", ".join(f"{count} in {name}" for name, count in result.matrices.items()))
        if result.other_bytes:
            others = f"{megabytes(result.other_bytes)} more than in {result.kind}, which can't hold their rows"
            table.add_row(f"not in {result.kind}", others)
        if result.filled_parameters:
            table.add_row(
                "zeros in heads that lost dims",
                f"{result.filled_parameters:,} parameters, {result.filled_kv_bytes_per_token:,} KV bytes a token",
            )
        console = Console()
        console.print(table)
        console.print(f"Next: llama-cli -m {output}", highlight=False, soft_wrap=True)

    show(result.to_dict(), as_json, text)
