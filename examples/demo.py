"""``make demo``: prunes a real model, trains it, builds it for Android and this host, and asks it questions.

SmolLM2-135M and the text come with the ``demo`` extra. All output goes to ``demo/``; the next run starts over.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge_transact.cli.common import guarded
from edge_transact.cli.logs import console, show_logs
from edge_transact.formatting import megabytes

if TYPE_CHECKING:
    from rich.table import Table

    from edge_transact.building.dist import Build
    from edge_transact.evaluation.answers.basics import AnswerRow

MODEL = "demo:smollm2"
TEXT = "demo:sotu"
"""What perplexity is measured on. Its evaluation part is neither calibrated nor trained on."""
MIXED = "demo:mixed"
"""What is calibrated and trained on."""
RATIO = 0.15
CALIBRATION_TOKENS, TRAIN_TOKENS = 5120, 5120
CROSS_ENTROPY = 0.3
"""The share of the text itself in what is learned, next to the dense model's predictions."""
QUANT = "q4f16_0"
WINDOWS = 6
"""Windows of 512 tokens of the evaluation text: enough to compare models; more of them measure better."""
PROMPT = "What is the capital of France?"
ROUNDS, TOKENS = 10, 32
"""Decode is measured this often, for so many tokens after `PROMPT`."""
STEPS = 7


@contextmanager
def timed(seconds: dict[str, float], title: str) -> Iterator[None]:
    """Announces a step of the demo, and adds the time of the body to the seconds of all steps."""
    console().rule(f"{len(seconds) + 1} of {STEPS}: {title}")
    started = time.perf_counter()
    yield
    seconds[title] = time.perf_counter() - started


@dataclass
class Row:
    """A model of the demo's table, its answers to the dozen of `quick_questions`, and tokens a second in each round."""

    name: str
    weights_bytes: int
    perplexity: float
    replies: Sequence[AnswerRow] | None = None
    speeds: Sequence[float] | None = None


@guarded
def demo(directory: Path = Path("demo")) -> None:
    """Runs all steps, from a checkpoint to answers, and prints what changed and how long each step took."""
    from edge_transact import costs
    from edge_transact.building.dist import build
    from edge_transact.building.options import BuildOptions
    from edge_transact.healing.options import HealOptions
    from edge_transact.healing.run import heal
    from edge_transact.inputs import resolve_model
    from edge_transact.pruning.options import PruneOptions
    from edge_transact.pruning.run import prune
    from edge_transact.quantization import get_quantization

    seconds: dict[str, float] = {}
    step = partial(timed, seconds)
    if directory.exists():
        shutil.rmtree(directory)
    with step(f"load {MODEL}"):
        source = resolve_model(MODEL)
    with step(f"prune {RATIO:.0%} of attention and MLP"):
        pruning = PruneOptions(ratio=RATIO, calibration=MIXED, calibration_tokens=CALIBRATION_TOKENS)
        pruned = prune(MODEL, directory / "pruned", pruning)
    with step(f"train it, rounded to 4 bits, on {TRAIN_TOKENS:,} tokens"):
        healing = HealOptions(train=MIXED, train_tokens=TRAIN_TOKENS, cross_entropy=CROSS_ENTROPY, quant=QUANT)
        heal(str(directory / "pruned"), directory / "healed", healing)
    with step("build for android and host"):
        nearest = build(MODEL, directory / "nearest", BuildOptions(target=["host"], quant=QUANT, rounding="nearest"))
        dense = build(MODEL, directory / "dense-dist", BuildOptions(target=["host"], quant=QUANT))
        healed = build(str(directory / "healed"), directory / "dist", BuildOptions(target=["android", "host"]))
    with step(f"perplexity on {TEXT}"):
        exact = get_quantization("q0f16")
        rows = [
            _row("dense", costs.weight_bytes(pruned.source.plan, exact), source),
            _row("dense, 4 bits as MLC-LLM rounds", nearest.manifest.weights_bytes, nearest.directory),
            _row("dense, 4 bits", dense.manifest.weights_bytes, dense.directory),
            _row(f"pruned by {RATIO:.0%}", costs.weight_bytes(pruned.checkpoint.plan, exact), pruned.checkpoint.path),
            _row("pruned and trained, 4 bits", healed.manifest.weights_bytes, healed.directory),
        ]
        shutil.rmtree(directory / "nearest")
    exactly, _, dense_row, pruned_row, healed_row = rows
    with step("ask a dozen questions"):
        exactly.replies, pruned_row.replies = _ask(source), _ask(pruned.checkpoint.path)
        dense_row.replies, healed_row.replies = _ask(dense.directory), _ask(healed.directory)
    with step(f"decode {TOKENS} tokens in {ROUNDS} rounds"):
        dense_row.speeds, healed_row.speeds = _decode_speeds([dense.directory, healed.directory])
    _report(directory, rows, healed, seconds)


def _row(name: str, weights_bytes: int, model: Path) -> Row:
    from edge_transact.evaluation.models import evaluate_model
    from edge_transact.inputs import read_text

    found = evaluate_model(str(model), read_text(TEXT, "evaluation"), max_windows=WINDOWS)
    return Row(name, weights_bytes, found["perplexity"])


def _ask(model: Path) -> list[AnswerRow]:
    from edge_transact.evaluation.answers.basics import ask
    from edge_transact.evaluation.answers.questions import quick_questions
    from edge_transact.evaluation.models import load

    return ask(*load(str(model)), quick_questions(), step=f"questions to {model.name}")


def _decode_speeds(dists: Sequence[Path]) -> list[list[float]]:
    """Tokens a second of each library in each round. They take turns, so that a load of the machine slows all."""
    from edge_transact.runtime.host import HostModel
    from edge_transact.runtime.text import TextCodec

    models = [HostModel.load(dist) for dist in dists]
    prompts = [TextCodec(dist).encode(PROMPT) for dist in dists]
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


def _report(directory: Path, rows: Sequence[Row], healed: Build, seconds: Mapping[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    out = Console()
    out.print(_comparison(rows))
    out.print(_answers(*(row for row in rows if row.speeds)))
    files = Table(show_header=False, box=None)
    files.add_row("pruned checkpoint", f"{directory}/pruned")
    files.add_row("trained checkpoint", f"{directory}/healed")
    for target, path in healed.manifest.libraries.items():
        files.add_row(f"library for {target}", f"{directory}/dist/{path}")
    files.add_row("MLC model definition", f"{directory}/dist/definition")
    files.add_row("parity with torch", f"{healed.manifest.parity['prefill_error']:.1e} of the largest logit")
    out.print(files)
    out.print(_times(seconds))
    # `make demo` installs into a virtual environment that nobody has activated.
    tool = "edge-transact" if shutil.which("edge-transact") else Path(sys.executable).with_name("edge-transact")
    out.print(f"\nNext: [bold]{tool} run {directory}/dist[/bold] to chat with it.", soft_wrap=True)


def _comparison(rows: Sequence[Row]) -> Table:
    from rich.table import Column, Table

    title = f"{MODEL}: perplexity of {TEXT}, and decode on this machine"
    figures = (Column(name, justify="right", no_wrap=True) for name in ("weights", "perplexity", "right", "tok/s"))
    table = Table(Column(no_wrap=True), *figures, title=title)
    for row in rows:
        right = f"{sum(reply['right'] for reply in row.replies)} of {len(row.replies)}" if row.replies else ""
        speed = f"{statistics.median(row.speeds):.1f}" if row.speeds else ""
        table.add_row(row.name, megabytes(row.weights_bytes), f"{row.perplexity:.2f}", right, speed)
    before, after = (row.speeds for row in rows if row.speeds)
    table.caption = f"decode, trained next to dense: {_speedup(before, after)}"
    return table


def _answers(dense: Row, healed: Row) -> Table:
    """Both libraries' answers to every question that was asked, beside each other."""
    from rich.table import Table
    from rich.text import Text

    table = Table("", dense.name, healed.name, show_lines=True)
    assert dense.replies and healed.replies
    for replies in zip(dense.replies, healed.replies, strict=True):
        cells = [Text(f"{'right' if reply['right'] else 'wrong'}: {reply['answer']}") for reply in replies]
        table.add_row(replies[0]["question"], *cells)
    return table


def _speedup(before: Sequence[float], after: Sequence[float]) -> str:
    """How much faster the same rounds were: the median, and the range of the middle half of them."""
    ratios = [new / old - 1 for old, new in zip(before, after, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return f"{median:+.0%} ({low:+.0%} to {high:+.0%})"


def _times(seconds: Mapping[str, float]) -> Table:
    """How long each step took, and the memory that all of them needed."""
    from rich.table import Column, Table

    from edge_transact.system.memory import peak_rss_mib

    steps = Column("step", f"all steps, peak memory {peak_rss_mib() / 1024:.1f} GiB")
    total = Column("seconds", f"{sum(seconds.values()):.0f}", justify="right")
    table = Table(steps, total, title="How long it took", show_footer=True)
    for title, taken in seconds.items():
        table.add_row(title, f"{taken:.0f}")
    return table


if __name__ == "__main__":
    show_logs()
    demo()
