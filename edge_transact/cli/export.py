"""``edge-transact export``: a model for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_transact.cli.common import ForceOption, JsonOption, guarded, show, show_written
from edge_transact.exporting.options import ExportOptions
from edge_transact.formatting import megabytes
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
    """Write a model as a GGUF file for llama.cpp and the apps that use it.

    Layers may differ in width. A DIST's 4-bit weights are written as they are. Heads that lost dims are padded with
    zeros, because llama.cpp has one head dim for all layers. The format nemotron-nas is a checkpoint for vLLM and
    mlx-lm, in which only MLPs may differ, in multiples of 256.

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
        from edge_transact.exporting.nemotron_nas import export_nemotron_nas

        written = export_nemotron_nas(model, output, force=force)
        show(written, as_json, lambda: typer.echo(f"Next: mlx_lm.generate --model {output}"))
        return
    if to != "gguf":
        raise UsageError(f"unknown format {to!r}", fix=did_you_mean(to, FORMATS))
    from edge_transact.exporting.gguf import export_gguf

    result = export_gguf(model, output, kind=options.kind, pre=options.pre, force=force)

    facts = {
        "architecture": result.architecture,
        "size": megabytes(result.size_bytes),
        "matrices": ", ".join(f"{count} in {name}" for name, count in result.matrices.items()),
    }
    if result.other_bytes:
        facts[f"not in {result.kind}"] = (
            f"{megabytes(result.other_bytes)} more than in {result.kind}, which can't hold their rows"
        )
    if result.filled_parameters:
        facts["zeros in heads that lost dims"] = (
            f"{result.filled_parameters:,} parameters, {result.filled_kv_bytes_per_token:,} KV bytes a token"
        )
    show_written(str(output), facts, result.to_dict(), as_json, f"llama-cli -m {output}")
