"""``edge-transact profile``: the times of a model's kernels on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_transact.cli.common import ForceOption, FreshOption, JsonOption, guarded, show_written
from edge_transact.profiling.options import ProfileOptions


@guarded
def profile(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|DIST", help="A checkpoint, a hub id, a GGUF file, a demo: name, or a DIST.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PROFILE", help="JSON file to write.")],
    options: ProfileOptions,
    fresh: FreshOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the kernels of a model's shape on a device, over widths and contexts, for budgets of time.

    Small models with layers of several widths are built and measured in turns, as `bench` measures. Only the shape of
    the model counts: hidden size, vocabulary, heads. Repetitions are logged in PROFILE.jsonl; the same command goes on
    from there, and with more `--repetitions` and `--force` it adds some. Without a device, `--bandwidth-gb-s` and
    `--gflops` give a roofline.

    **Examples**

    `edge-transact profile demo:smollm2 -o host.json`

    `edge-transact profile demo:smollm2 --device SERIAL --contexts 512,4096 -o phone.json`

    `edge-transact profile demo:smollm2 --target android-cpu --bandwidth-gb-s 50 --gflops 300 -o roofline.json`
    """
    from edge_transact.profiling.run import profile

    made = profile(model, output, options, fresh=fresh, force=force)
    summary = made.summary()
    show_written(summary.title, summary.facts, made.to_dict(), as_json, None)
