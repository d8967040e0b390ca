"""``make demo``: a real model pruned, built for Android and this host, measured, and asked a question.

SmolLM2-135M comes with the ``demo`` extra, and so does the text that it is calibrated and measured on. Everything is
written into ``demo/`` and can be used afterwards; running the demo again starts afresh.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edge_transact.cli.common import guarded
from edge_transact.cli.logs import console, show_logs

if TYPE_CHECKING:
    from edge_transact.build.dist import Build
    from edge_transact.runtime.session import Answer

logger = logging.getLogger("edge_transact.demo")

MODEL = "demo:smollm2"
TEXT = "demo:sotu"
RATIO = 0.3
QUESTION = "What is the capital of France?"
WINDOWS = 16
"""Windows of 512 tokens of the evaluation text: enough to rank; `eval --max-windows 64` measures better."""


@guarded
def demo(directory: Path = Path("demo")) -> None:
    """The whole job, from a checkpoint to an answer, and a table of what it cost."""
    from edge_transact.build.dist import build
    from edge_transact.evaluate.models import evaluate_model
    from edge_transact.inputs import read_text, resolve_model
    from edge_transact.prune import Budget, prune

    started = time.perf_counter()
    if directory.exists():
        shutil.rmtree(directory)
    console.rule(f"1 of 5: load {MODEL}")
    source = resolve_model(MODEL)
    console.rule(f"2 of 5: prune {RATIO:.0%} of attention and MLP")
    pruned = prune(MODEL, directory / "pruned", Budget(ratio=RATIO))
    console.rule("3 of 5: quantize to W4A16 and build for android and host")
    dense_build = build(MODEL, directory / "dense-dist", targets=["host"], quantization="q4f16_0")
    pruned_build = build(str(directory / "pruned"), directory / "dist", targets=["android", "host"])
    console.rule(f"4 of 5: ask: {QUESTION}")
    answers = [_ask("dense", dense_build), _ask("pruned", pruned_build)]
    console.rule(f"5 of 5: perplexity on {TEXT}")
    document = read_text(TEXT, "evaluation")
    perplexities = {}
    for name, model in (
        ("dense", str(source)),
        ("pruned", str(pruned.checkpoint.path)),
        ("dense + W4", str(directory / "dense-dist")),
        ("pruned + W4", str(directory / "dist")),
    ):
        logger.info(name)
        perplexities[name] = evaluate_model(model, document, max_windows=WINDOWS).perplexity
    _report(directory, dense_build, pruned_build, answers, perplexities, time.perf_counter() - started)


def _ask(name: str, built: Build) -> Answer:
    """Stream the answer of a built library to the terminal."""
    from edge_transact.runtime.session import Session

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    logger.info(f"{name}:")
    answer = Session.load(built.directory, max_tokens=48).answer(QUESTION, on_text=write)
    write("\n")
    return answer


def _report(
    directory: Path,
    dense: Build,
    pruned: Build,
    answers: list[Answer],
    perplexities: dict[str, float],
    seconds: float,
) -> None:
    import resource

    from rich.console import Console
    from rich.table import Table

    from edge_transact import costs
    from edge_transact.quantization import get_quantization

    quantization = get_quantization(pruned.manifest.quantization)
    plans = [dense.manifest.plan, pruned.manifest.plan]
    table = Table("", "dense", "pruned", "change", title=f"{MODEL}, pruned by {RATIO:.0%}, no training")
    for column in table.columns[1:]:
        column.justify = "right"

    def add(name: str, values: Sequence[float], unit: str = ",.0f") -> None:
        before, after = values
        table.add_row(name, format(before, unit), format(after, unit), f"{after / before - 1:+.0%}")

    add("parameters", [costs.parameters(plan) for plan in plans])
    add(f"weight bytes, {quantization.name}", [built.manifest.weights_bytes for built in (dense, pruned)])
    add("KV bytes a token", [costs.kv_bytes_per_token(plan, quantization) for plan in plans])
    add("FLOPs a token at 512", [costs.decode_flops(plan, 512) for plan in plans])
    add(f"perplexity, {TEXT}, {WINDOWS} windows", [perplexities["dense"], perplexities["pruned"]], ".2f")
    add("the same, quantized, from the library", [perplexities["dense + W4"], perplexities["pruned + W4"]], ".2f")
    # An answer of a single token has decoded nothing that could be timed.
    speeds = [answer.decode_tok_s for answer in answers if answer.decode_tok_s]
    if len(speeds) == len(answers):
        add("decode on this host, tokens/s", speeds, ".1f")
    out = Console()
    out.print(table)
    sides = Table("dense", "pruned", title=QUESTION)
    sides.add_row(*(answer.text.strip() for answer in answers))
    out.print(sides)
    files = Table(show_header=False, box=None)
    files.add_row("pruned checkpoint", f"{directory}/pruned")
    for target, path in pruned.manifest.libraries.items():
        files.add_row(f"library for {target}", f"{directory}/dist/{path}")
    files.add_row("MLC model definition", f"{directory}/dist/definition")
    files.add_row("parity with torch", f"{pruned.manifest.parity['prefill_error']:.1e} of the largest logit")
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    files.add_row("took", f"{seconds:.0f} s, peak memory {peak_gib:.1f} GiB")
    out.print(files)
    # `make demo` installs into a virtual environment that nobody has activated.
    tool = "edge-transact" if shutil.which("edge-transact") else Path(sys.executable).with_name("edge-transact")
    out.print(f"\nNext: [bold]{tool} run {directory}/dist[/bold] to chat with it.", soft_wrap=True)


if __name__ == "__main__":
    show_logs()
    demo()
