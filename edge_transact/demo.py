"""``make demo``: prunes a real model, builds it for Android and this host, asks it a question and measures it.

SmolLM2-135M comes with the ``demo`` extra, and so does the text for calibration and evaluation. All output goes to
``demo/`` and stays usable; the next run of the demo starts over.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edge_transact.cli.common import guarded
from edge_transact.cli.logs import console, show_logs

if TYPE_CHECKING:
    from rich.table import Table

    from edge_transact.build.dist import Build
    from edge_transact.runtime.session import Answer

logger = logging.getLogger("edge_transact.demo")

MODEL = "demo:smollm2"
TEXT = "demo:sotu"
RATIO = 0.3
QUESTION = "What is the capital of France?"
WINDOWS = 16
"""Windows of 512 tokens of the evaluation text: enough to compare models; more of them measure better."""
STEPS = 6


class Timer:
    """Announces the demo's steps and takes their time.

    Attributes:
        seconds: Step to its seconds, in order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announces a step; its time ends with the body."""
        console.rule(f"{len(self.seconds) + 1} of {STEPS}: {title}")
        started = time.perf_counter()
        yield
        self.seconds[title] = time.perf_counter() - started


@guarded
def demo(directory: Path = Path("demo")) -> None:
    """Runs all steps, from a checkpoint to an answer, and prints what changed and how long each step took."""
    from edge_transact.build.dist import build
    from edge_transact.build.options import BuildOptions
    from edge_transact.evaluate.models import evaluate_model
    from edge_transact.inputs import read_text, resolve_model
    from edge_transact.prune import PruneOptions, prune

    timer = Timer()
    if directory.exists():
        shutil.rmtree(directory)
    with timer.step(f"load {MODEL}"):
        source = resolve_model(MODEL)
    with timer.step(f"prune {RATIO:.0%} of attention and MLP"):
        pruned = prune(MODEL, directory / "pruned", PruneOptions(ratio=RATIO))
    with timer.step("quantize to W4A16 and build for android and host"):
        dense_build = build(MODEL, directory / "dense-dist", BuildOptions(target=["host"], quant="q4f16_0"))
        pruned_build = build(str(directory / "pruned"), directory / "dist", BuildOptions(target=["android", "host"]))
    with timer.step(f"ask: {QUESTION}"):
        answers = [_ask("dense", dense_build), _ask("pruned", pruned_build)]
    perplexities = {}
    with timer.step(f"perplexity on {TEXT}"):
        document = read_text(TEXT, "evaluation")
        for name, model in (
            ("dense", str(source)),
            ("pruned", str(pruned.checkpoint.path)),
            ("dense + W4", str(directory / "dense-dist")),
            ("pruned + W4", str(directory / "dist")),
        ):
            logger.info(name)
            perplexities[name] = evaluate_model(model, document, max_windows=WINDOWS).perplexity
    with timer.step("the same with MLC-LLM's rounding"):
        for name, model in (("dense", MODEL), ("pruned", str(directory / "pruned"))):
            options = BuildOptions(target=["host"], quant="q4f16_0", rounding="nearest")
            build(model, directory / "nearest", options, force=True)
            perplexities[f"{name} + nearest"] = evaluate_model(
                str(directory / "nearest"), document, max_windows=WINDOWS
            ).perplexity
        shutil.rmtree(directory / "nearest")
    _report(directory, dense_build, pruned_build, answers, perplexities, timer.seconds)


def _ask(name: str, built: Build) -> Answer:
    """Streams the answer of a built library to the terminal."""
    from edge_transact.runtime.session import Session

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    logger.info(f"{name}:")
    answer = Session.load(built.directory, temperature=0.0, max_tokens=48).answer(QUESTION, on_text=write)
    write("\n")
    return answer


def _report(
    directory: Path,
    dense: Build,
    pruned: Build,
    answers: list[Answer],
    perplexities: Mapping[str, float],
    seconds: Mapping[str, float],
) -> None:
    from rich.console import Console
    from rich.table import Table

    out = Console()
    out.print(_comparison(dense, pruned, answers, perplexities))
    texts = Table("dense", "pruned", title=QUESTION)
    texts.add_row(*(answer.text.strip() for answer in answers))
    out.print(texts)
    files = Table(show_header=False, box=None)
    files.add_row("pruned checkpoint", f"{directory}/pruned")
    for target, path in pruned.manifest.libraries.items():
        files.add_row(f"library for {target}", f"{directory}/dist/{path}")
    files.add_row("MLC model definition", f"{directory}/dist/definition")
    files.add_row("parity with torch", f"{pruned.manifest.parity['prefill_error']:.1e} of the largest logit")
    out.print(files)
    out.print(_times(seconds))
    # `make demo` installs into a virtual environment that nobody has activated.
    tool = "edge-transact" if shutil.which("edge-transact") else Path(sys.executable).with_name("edge-transact")
    out.print(f"\nNext: [bold]{tool} run {directory}/dist[/bold] to chat with it.", soft_wrap=True)


def _comparison(dense: Build, pruned: Build, answers: Sequence[Answer], perplexities: Mapping[str, float]) -> Table:
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
    add("KV bytes per token", [costs.kv_bytes_per_token(plan, quantization) for plan in plans])
    add("FLOPs per token at 512", [costs.decode_flops(plan, 512) for plan in plans])
    add(f"perplexity, {TEXT}, {WINDOWS} windows", [perplexities["dense"], perplexities["pruned"]], ".2f")
    add("the same, quantized, from the library", [perplexities["dense + W4"], perplexities["pruned + W4"]], ".2f")
    add("the same, rounded as MLC-LLM does", [perplexities["dense + nearest"], perplexities["pruned + nearest"]], ".2f")
    # The first token of an answer comes from prefill: an answer of one token has no decode speed.
    speeds = [answer.decode_tok_s for answer in answers if answer.decode_tok_s]
    if len(speeds) == len(answers):
        add("decode on this host, tokens/s", speeds, ".1f")
    return table


def _times(seconds: Mapping[str, float]) -> Table:
    """How long each step took, and the memory that all of them needed."""
    from rich.table import Table

    from edge_transact.system.memory import peak_rss_mib

    table = Table("step", "seconds", title="How long it took", show_footer=True)
    table.columns[1].justify = "right"
    for title, taken in seconds.items():
        table.add_row(title, f"{taken:.0f}")
    table.columns[0].footer = f"all steps, peak memory {peak_rss_mib() / 1024:.1f} GiB"
    table.columns[1].footer = f"{sum(seconds.values()):.0f}"
    return table


if __name__ == "__main__":
    show_logs()
    demo()
