"""``edge-transact build``: a DIST of a model."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from edge_transact.cli.common import ForceOption, JsonOption, guarded, show

logger = logging.getLogger(__name__)

PRUNE = partial(typer.Option, rich_help_panel="Prune first, to")


@guarded
def build(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A checkpoint directory, a hub id, a GGUF file or a demo: name. [default: edge-transact.toml's]",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIST", help="The directory to make. [default: dist]")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="android, android-cpu, host, iphone; several with commas. [default: android,host]"),
    ] = None,
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
    max_batch: Annotated[int | None, typer.Option(min=1, help="Sequences at once. [default: 1]")] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="tvm, or mlc: your MLC-LLM (MLC_LLM_SOURCE_DIR) converts and compiles. [default: tvm]"),
    ] = None,
    ratio: Annotated[float | None, PRUNE(help="This share less of attention and MLP parameters.")] = None,
    target_params: Annotated[str | None, PRUNE(help="So many parameters: 1.3B, 900M.")] = None,
    max_weight_bytes: Annotated[str | None, PRUNE(help="Weights of so many bytes: 600MB.")] = None,
    max_kv_bytes_per_token: Annotated[str | None, PRUNE(help="So many bytes of KV cache a token: 12k.")] = None,
    max_memory: Annotated[
        str | None,
        PRUNE(help="So many bytes of weights, KV cache and workspace: 1.5GiB."),
    ] = None,
    widths: Annotated[Path | None, PRUNE(help="The widths in this JSON file.")] = None,
    heads: Annotated[int | None, PRUNE(help="So many query heads in every layer.")] = None,
    intermediate: Annotated[int | None, PRUNE(help="So many MLP dims in every layer.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Quantize a model and build its libraries: a directory that MLC-LLM's engine and apps, and `run`, can use.

    The libraries are compiled from the emitted model definition, and what was built is compared with torch on the
    quantized weights before anything is written. With a budget (`--ratio`, another limit, `--widths`, or
    `--heads` and `--intermediate`) the model is pruned first; `edge-transact prune` has more to choose from.
    Without MODEL, `edge-transact.toml` in the working directory says all this; options override it.
    Stages that have not changed since an earlier build are taken from the cache, with `--force` too: it makes the
    directory anew, and `--no-cache` its parts.

    **Examples**

    `edge-transact build demo:smollm2 --target host -o dist`

    `edge-transact build demo:smollm2 --ratio 0.3 --target android,host --context 1024 -o dist`

    `edge-transact init demo:smollm2 && edge-transact build --target android`

    `edge-transact build model.gguf --target android,host -o dist --json | jq .libraries`
    """
    options = {
        "model": model,
        "output": None if output is None else str(output),
        "target": target,
        "quant": quant,
        "context": context,
        "prefill_chunk": prefill_chunk,
        "max_batch": max_batch,
        "engine": engine,
        "ratio": ratio,
        "target_params": target_params,
        "max_weight_bytes": max_weight_bytes,
        "max_kv_bytes_per_token": max_kv_bytes_per_token,
        "max_memory": max_memory,
        "widths": None if widths is None else str(widths),
        "heads": heads,
        "intermediate": intermediate,
    }
    arguments = _arguments(options)
    from edge_transact.build.dist import build as build_dist

    made = build_dist(**arguments, force=force)
    output = made.directory

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
            "against torch",
            f"{parity['library']}: logits within {parity['prefill_error']:.1e} (prefill) and "
            f"{parity['decode_error']:.1e} (decode) of the largest, "
            f"{parity['token_agreement']:.0%} of greedy tokens the same",
        )
        console = Console()
        console.print(table)
        if "host" in manifest.libraries:
            console.print(f'Next: edge-transact run {output} --prompt "Hello"', highlight=False)

    show(made.to_dict(), as_json, text)


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    """What `build.dist.build` is called with: the options over ``edge-transact.toml``, or the options alone."""
    from edge_transact.compiler.targets import get_target
    from edge_transact.errors import UsageError, did_you_mean
    from edge_transact.project import BUDGET_KEYS, ENGINES, FILE, Project, read_project
    from edge_transact.quantization import default_quantization, get_quantization

    if options["model"] is not None:
        project = Project(model=options["model"])
    elif Path(FILE).exists():
        project = read_project(Path(FILE))
        logger.info(f"{FILE}: {project.model} for {', '.join(project.build.target)}")
    else:
        raise UsageError(
            f"no MODEL, and no {FILE} in the working directory",
            fix="Give a model, such as the demo's: edge-transact build demo:smollm2 -o dist. Or write the file: "
            "edge-transact init demo:smollm2",
        )
    project = project.overridden(options)
    # Misspelt names are refused at once, before torch and tvm are imported.
    for name in project.build.target:
        get_target(name)
    if project.build.quant:
        get_quantization(project.build.quant)
    engine = project.build.engine or "tvm"
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}", fix=did_you_mean(engine, ENGINES))
    budget, pruning = None, {}
    if project.prune:
        from edge_transact.costs import DEFAULT_CONTEXT
        from edge_transact.prune import Budget

        pruning = project.prune.model_dump(exclude_none=True)
        budget = Budget.from_options(
            **{key: pruning.pop(key) for key in BUDGET_KEYS if key in pruning},
            quant=project.build.quant or default_quantization(project.build.target),
            context=project.build.context or DEFAULT_CONTEXT,
        )
    build = project.build
    return {
        "model": project.model,
        "output": Path(project.output),
        "targets": build.target,
        "quantization": build.quant,
        "context": build.context,
        "prefill_chunk": build.prefill_chunk,
        "max_batch": build.max_batch or 1,
        "engine": engine,
        "budget": budget,
        "pruning": pruning,
    }
