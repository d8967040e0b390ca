"""``edge-transact build``: a DIST of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_transact.cli.common import ForceOption, JsonOption, guarded, show


@guarded
def build(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIST", help="The directory to make.")],
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL]", help="A checkpoint directory, a hub id, a GGUF file or a demo: name."),
    ] = None,
    target: Annotated[
        str, typer.Option(help="What to build for: android, android-cpu, host; several with commas.")
    ] = "android,host",
    quant: Annotated[
        str | None,
        typer.Option(help="q4f16_0, q4f16_1, q4f32_1, q0f16 or q0f32. [default: q4f16_0 with android, else q4f32_1]"),
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens that a sequence may have. [default: 2048, or the model's]")
    ] = None,
    prefill_chunk: Annotated[
        int | None, typer.Option(min=1, help="Tokens of one prefill call. [default: 128, or the context]")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 1,
    ratio: Annotated[
        float | None, typer.Option(help="Prune first: the share of attention and MLP parameters to remove.")
    ] = None,
    target_params: Annotated[str | None, typer.Option(help="Prune first, to so many parameters: 1.3B, 900M.")] = None,
    widths: Annotated[Path | None, typer.Option(help="Prune first, to the widths in this JSON file.")] = None,
    heads: Annotated[int | None, typer.Option(help="Prune first: query heads of every layer.")] = None,
    intermediate: Annotated[int | None, typer.Option(help="Prune first: MLP dims of every layer.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Quantize a model and build its libraries: a directory that MLC-LLM's engine and apps, and `run`, can use.

    The libraries are compiled from the emitted model definition, and what was built is compared with torch on the
    quantized weights before anything is written. With a budget (`--ratio`, `--target-params`, `--widths`, or
    `--heads` and `--intermediate`) the model is pruned first; `edge-transact prune` has more to choose from.

    **Examples**

    `edge-transact build demo:smollm2 --target host -o dist`

    `edge-transact build demo:smollm2 --ratio 0.3 --target android,host --context 1024 -o dist`

    `edge-transact build model.gguf --target android --quant q4f16_1 -o dist --json | jq .libraries`
    """
    from edge_transact.build.dist import build as build_dist
    from edge_transact.errors import UsageError
    from edge_transact.prune import Budget, parse_parameters

    if model is None:
        raise UsageError(
            "no MODEL, and no edge-transact.toml in the working directory",
            fix=f"Give a model, such as the demo's: edge-transact build demo:smollm2 --target {target} -o {output}",
        )
    budget = None
    if any(value is not None for value in (ratio, target_params, widths, heads, intermediate)):
        parameters = parse_parameters(target_params) if target_params is not None else None
        budget = Budget(ratio, parameters, widths, heads, intermediate)
    made = build_dist(
        model,
        output,
        targets=[name.strip() for name in target.split(",")],
        quantization=quant,
        context=context,
        prefill_chunk=prefill_chunk,
        max_batch=max_batch,
        budget=budget,
        force=force,
    )

    def text() -> None:
        from rich.console import Console
        from rich.table import Table

        manifest, parity = made.manifest, made.manifest.parity
        table = Table(title=f"{output} in {made.seconds:.0f} s", title_justify="left", show_header=False)
        table.add_row("library", manifest.model_lib)
        table.add_row(
            f"weights, {manifest.quantization}",
            f"{manifest.weights_bytes / (1 << 20):.1f} MiB, {manifest.bits_per_parameter:.3f} bits a parameter",
        )
        for name, path in manifest.libraries.items():
            size = (output / path).stat().st_size / (1 << 20)
            table.add_row(f"  {name}", f"{path}, {size:.1f} MiB")
        table.add_row(
            f"against torch, {parity['library']}",
            f"logits within {parity['prefill_error']:.1e} (prefill) and {parity['decode_error']:.1e} (decode) of the "
            f"largest, {parity['token_agreement']:.0%} of greedy tokens the same",
        )
        console = Console()
        console.print(table)
        if "host" in manifest.libraries:
            console.print(f'Next: edge-transact run {output} --prompt "Hello"', highlight=False)

    show(made.to_dict(), as_json, text)
