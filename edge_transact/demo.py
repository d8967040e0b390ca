"""``make demo``: prunes a real model, builds it for Android and this host, asks it a question and measures it.

SmolLM2-135M comes with the ``demo`` extra, and so does the text for calibration and evaluation. All output goes to
``demo/`` and stays usable; the next run of the demo starts over.
"""

from __future__ import annotations

import logging
import shutil
import statistics
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
ROUNDS, TOKENS = 10, 32
"""Decode is measured this often, for so many tokens."""
STEPS = 7


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
        console().rule(f"{len(self.seconds) + 1} of {STEPS}: {title}")
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
    with timer.step(f"decode {TOKENS} tokens in {ROUNDS} rounds"):
        speeds = _decode_speeds([dense_build.directory, pruned_build.directory])
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
    _report(directory, dense_build, pruned_build, answers, speeds, perplexities, timer.seconds)


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


def _decode_speeds(dists: Sequence[Path]) -> list[list[float]]:
    """Tokens a second of each library in each round. They take turns, so that a load of the machine slows all."""
    from edge_transact.runtime.host import HostModel
    from edge_transact.runtime.text import TextCodec

    models = [HostModel.load(dist) for dist in dists]
    prompts = [TextCodec(dist).encode(QUESTION) for dist in dists]
    speeds: list[list[float]] = [[] for _ in dists]
    for _ in range(ROUNDS):
        for model, prompt, of_model in zip(models, prompts, speeds, strict=True):
            model.reset()
            tokens = model.generate(prompt, TOKENS + 1)
            next(tokens)  # prefill's
            started = time.perf_counter()
            count = sum(1 for _ in tokens)
            of_model.append(count / (time.perf_counter() - started))
    return speeds


def _report(
    directory: Path,
    dense: Build,
    pruned: Build,
    answers: Sequence[Answer],
    speeds: Sequence[Sequence[float]],
    perplexities: Mapping[str, float],
    seconds: Mapping[str, float],
) -> None:
    from rich.console import Console
    from rich.table import Table

    out = Console()
    out.print(_comparison(dense, pruned, speeds, perplexities))
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
    healed = f"heal {directory}/pruned --train demo:mixed -o {directory}/healed"
    out.print(f"\nNext: [bold]{tool} run {directory}/dist[/bold] to chat with it,", soft_wrap=True)
    out.print(f"or [bold]{tool} {healed}[/bold] to train it; with --dry-run it says for how long.", soft_wrap=True)


def _comparison(
    dense: Build, pruned: Build, speeds: Sequence[Sequence[float]], perplexities: Mapping[str, float]
) -> Table:
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
    change, cells = _speedup(*speeds), [f"{statistics.median(of_model):.1f}" for of_model in speeds]
    table.add_row("decode on this host, tokens/s", *cells, change)
    return table


def _speedup(before: Sequence[float], after: Sequence[float]) -> str:
    """How much faster the same rounds were: the median, and the range of the middle half of them."""
    ratios = [new / old - 1 for old, new in zip(before, after, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return f"{median:+.0%} ({low:+.0%} to {high:+.0%})"


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
