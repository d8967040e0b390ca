"""SmolLM2-135M: prefill of 256 and decode of 64 tokens, with the host library, and the limits."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import page, subjects
from benchmarks.limits import MEMORY_BYTES, Limits
from edge_transact import costs
from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking.records.plan import Lengths, prompt_ids
from edge_transact.building.dist import build
from edge_transact.building.options import BuildOptions
from edge_transact.progress import track
from edge_transact.pruning.options import PruneOptions
from edge_transact.quantization import get_quantization

if TYPE_CHECKING:
    from benchmarks.__main__ import Options

logger = logging.getLogger(__name__)

LENGTHS = Lengths(256, 64)
RATIO = 0.3
QUANTIZATIONS = ("q4f16_0", "q4f32_1")
PROCESS_ROUNDS = 4
"""Rounds after which all programs start again: a process is up to 4 % faster or slower than others of its program."""

Figures = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Ours:
    """A DIST to measure.

    Attributes:
        name: Name in tables.
        dist: The directory.
        manifest: Its manifest.
    """

    name: str
    dist: Path
    manifest: Manifest

    @property
    def read_bytes(self) -> int:
        """Bytes that a decoded token reads, at the mean context length."""
        context = LENGTHS.prefill_tokens + LENGTHS.decode_tokens // 2
        return costs.decode_read_bytes(self.manifest.plan, get_quantization(self.manifest.quantization), context)

    @property
    def prefill_flops(self) -> int:
        """FLOPs of the prompt."""
        return costs.prefill_flops(self.manifest.plan, LENGTHS.prefill_tokens)


def measure(options: Options) -> str:
    """Measure, and return the section's tables."""
    models = [build_dist(quantization, pruned, options) for pruned in (False, True) for quantization in QUANTIZATIONS]
    limits = Limits(options.scratch, options.threads, options.cpu)
    prompt = prompt_ids(models[0].manifest.plan.vocab_size, LENGTHS.prefill_tokens)
    prefill: dict[str, list[float]] = defaultdict(list)
    decode: dict[str, list[float]] = defaultdict(list)
    read: dict[str, list[float]] = defaultdict(list)
    memory: list[float] = []
    flops: list[float] = []
    handover: list[float] = []
    with ExitStack() as stack:
        running = {}
        for model in models:
            running[model.name] = subjects.host(
                model.dist / model.manifest.libraries["host"], model.dist, options.threads
            )
        for subject in running.values():
            stack.callback(subject.close)
        for number in track(range(options.repetitions + 1), "measure SmolLM2"):
            if number > 1 and number % PROCESS_ROUNDS == 1:
                for subject in running.values():
                    subject.restart()
                    subject.repetition(prompt, LENGTHS.decode_tokens)
            # Every other round runs backwards, so that a drift affects all alike. The first round warms up.
            for name in list(running)[:: 1 if number % 2 else -1]:
                seconds = running[name].repetition(prompt, LENGTHS.decode_tokens)
                prefill[name].append(LENGTHS.prefill_tokens / seconds["prefill_s"])
                decode[name].append((LENGTHS.decode_tokens - 1) / seconds["decode_s"])
            time.sleep(subjects.PAUSE_S)
            for model in models:
                read[model.name].append(limits.read_bytes_per_s(model.read_bytes))
            memory.append(limits.read_bytes_per_s(MEMORY_BYTES))
            flops.append(limits.flops_per_s())
            if (handover_s := limits.handover_s()) is not None:
                handover.append(handover_s)
            if number == 0:
                for series in (*prefill.values(), *decode.values(), *read.values(), memory, flops, handover):
                    series.clear()
    tables = [
        _speeds(models, prefill, decode, read, flops),
        _limits(models[0].read_bytes, read[models[0].name], memory, flops, handover),
        _ratios(models, prefill, decode),
    ]
    return "\n\n".join(tables)


def build_dist(quantization: str, pruned: bool, options: Options) -> Ours:
    """The DIST of SmolLM2 or of SmolLM2 pruned by `RATIO`, built unless it is in the scratch directory."""
    dist = options.scratch / f"smollm2-{'pruned' if pruned else 'dense'}-{quantization}-{options.cpu or 'native'}"
    if not dist.is_dir():
        logger.info(f"build {dist.name}")
        pruning = PruneOptions(ratio=RATIO, calibration_tokens=4096) if pruned else None
        build("demo:smollm2", dist, BuildOptions(target=["host"], quant=quantization, cpu=options.cpu), pruning=pruning)
    name = f"{quantization}, pruned by {RATIO:.0%}" if pruned else quantization
    return Ours(name, dist, Manifest.read(dist))


def _speeds(models: Sequence[Ours], prefill: Figures, decode: Figures, read: Figures, flops: Sequence[float]) -> str:
    rows = []
    for model in models:
        rate = [speed * model.prefill_flops / LENGTHS.prefill_tokens for speed in prefill[model.name]]
        limit = [bandwidth / model.read_bytes for bandwidth in read[model.name]]
        rows.append(
            [
                model.name,
                page.spread(prefill[model.name]),
                page.spread([100 * x / y for x, y in zip(rate, flops, strict=True)]),
                page.spread(decode[model.name]),
                page.spread(limit),
                page.spread([100 * x / y for x, y in zip(decode[model.name], limit, strict=True)]),
            ]
        )
    header = ["", "prefill tok/s", "% of the matmul peak", "decode tok/s", "read limit tok/s", "% of the read limit"]
    return page.table(header, rows)


def _limits(
    read_bytes: int, read: Sequence[float], memory: Sequence[float], flops: Sequence[float], handover: Sequence[float]
) -> str:
    def giga(values: Sequence[float], digits: int = 1) -> str:
        return page.spread([value / 1e9 for value in values], digits)

    limits = [
        f"{giga(read)} GB/s for the {read_bytes / 1e6:.0f} MB that a token of the dense model reads",
        f"{giga(memory)} GB/s for {MEMORY_BYTES >> 20} MiB, which no cache holds",
        f"{giga(flops, 0)} GFLOP/s of multiply-adds in registers",
    ]
    if handover:
        spread = page.spread([1e9 * seconds for seconds in handover])
        limits.append(f"{spread} ns until one CPU sees what the other has written")
    return f"Limits: {'; '.join(limits)}."


def _ratios(models: Sequence[Ours], prefill: Figures, decode: Figures) -> str:
    def ratio(figures: Figures, first: str, second: str) -> str:
        return page.spread([a / b for a, b in zip(figures[first], figures[second], strict=True)], 2)

    dense, pruned = models[: len(QUANTIZATIONS)], models[len(QUANTIZATIONS) :]
    pairs = [(small.name, model.name) for small, model in zip(pruned, dense, strict=True)]
    rows = [[f"{a} / {b}", ratio(prefill, a, b), ratio(decode, a, b)] for a, b in pairs]
    return page.table(["speed, of the same round", "prefill", "decode"], rows)
