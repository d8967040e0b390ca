"""The paper's three models with random weights: do FLOPs and bytes predict the latency?"""

from __future__ import annotations

import json
import logging
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import page, subjects
from benchmarks.limits import MEMORY_BYTES, Limits
from benchmarks.model_coverage import MODELS
from edge_transact import costs
from edge_transact.benchmarking.records.plan import Lengths, prompt_ids
from edge_transact.building.dist import model_lib_name
from edge_transact.building.stages import place_library
from edge_transact.compiler.targets import get_target
from edge_transact.definition import Definition, load, render
from edge_transact.progress import track
from edge_transact.quantization import get_quantization
from edge_transact.weights.shards import ShardWriter
from edge_transact.widths import WidthPlan

FIGURE_4: dict[str, dict[Lengths, tuple[float, float]]] = {
    model: {Lengths(int(row[0]), int(row[1])): (row[2], row[3]) for row in rows}
    for model, rows in {
        "TransAct-1.3B": (
            (64, 64, 1.65, 3.28), (128, 64, 2.93, 4.67), (256, 64, 4.88, 6.76), (512, 64, 8.22, 10.74),
            (960, 64, 15.73, 18.88), (256, 128, 4.95, 9.45), (256, 256, 4.89, 14.23), (256, 512, 4.92, 25.22),
            (256, 768, 4.94, 37.80),
        ),
        "Sheared-LLaMA-1.3B": (
            (64, 64, 2.09, 4.03), (128, 64, 3.59, 5.69), (256, 64, 5.66, 8.04), (512, 64, 10.92, 13.97),
            (960, 64, 20.61, 24.58), (256, 128, 5.70, 10.71), (256, 256, 5.70, 16.29), (256, 512, 5.66, 29.62),
            (256, 768, 5.67, 46.22),
        ),
        "LLaMA-2-7B": (
            (64, 64, 7.30, 12.94), (128, 64, 13.61, 19.52), (256, 64, 26.42, 32.80), (256, 128, 26.08, 39.50),
            (256, 256, 26.26, 54.47),
        ),
    }.items()
}  # fmt: skip
"""Seconds of the prefill, and in total, by model and lengths: W4A16 through MLC-LLM on a Snapdragon 8 Gen 3.

Source: Shen et al., Findings of ACL 2024, Figure 4, read off its pixels to within about 0.1 s.
"""

if TYPE_CHECKING:
    from benchmarks.__main__ import Options

logger = logging.getLogger(__name__)

SHAPES = ("TransAct-1.3B", "Sheared-LLaMA-1.3B", "LLaMA-2-7B")
LARGEST = "LLaMA-2-7B"
PAIRS = (("TransAct-1.3B", LARGEST), ("Sheared-LLaMA-1.3B", LARGEST), ("TransAct-1.3B", "Sheared-LLaMA-1.3B"))
LENGTHS = (Lengths(256, 64), Lengths(960, 64))
DEPTHS = (1, 3)
QUANTIZATION = get_quantization("q4f16_0")
CONTEXT, CHUNK = 1024, 128


@dataclass(frozen=True)
class Shape:
    """A model of the paper, built with all layers, or at two depths.

    Attributes:
        plan: Widths of all layers.
        libraries: Library of each depth.
        weights: Shards for the largest depth.
    """

    plan: WidthPlan
    libraries: Mapping[int, Path]
    weights: Path

    def extended(self, seconds: Mapping[int, float]) -> float:
        """The time of all layers, extrapolated linearly from the measured depths."""
        depths = sorted(seconds)
        if len(depths) == 1:
            return seconds[depths[0]]
        low, high = depths
        layer = (seconds[high] - seconds[low]) / (high - low)
        return seconds[low] + (self.plan.num_hidden_layers - low) * layer


@dataclass(frozen=True)
class Times:
    """Seconds of all layers at one pair of lengths, one value for each round."""

    prefill: list[float]
    decode: list[float]

    @property
    def total(self) -> list[float]:
        return [a + b for a, b in zip(self.prefill, self.decode, strict=True)]


def measure(options: Options) -> str:
    """Measure, and return the section's tables."""
    shapes = {name: build(name, options, None if options.full_depth else DEPTHS) for name in SHAPES}
    limits = Limits(options.scratch, options.threads)
    times: dict[tuple[str, Lengths], Times] = defaultdict(lambda: Times([], []))
    bandwidth, flops = [], []
    with ExitStack() as stack:
        running = {}
        for name, shape in shapes.items():
            for depth, library in shape.libraries.items():
                running[name, depth] = subjects.host(library, shape.weights, options.threads)
                stack.callback(running[name, depth].close)
        for number in track(range(options.repetitions + 1), "measure the paper's shapes"):
            bandwidth.append(limits.read_bytes_per_s(MEMORY_BYTES))
            flops.append(limits.flops_per_s())
            for lengths in LENGTHS:
                for name, shape in shapes.items():
                    prompt = prompt_ids(shape.plan.vocab_size, lengths.prefill_tokens)
                    found = {d: running[name, d].repetition(prompt, lengths.decode_tokens) for d in shape.libraries}
                    if number:  # the first round warms up
                        series = times[name, lengths]
                        series.prefill.append(shape.extended({d: found[d]["prefill_s"] for d in found}))
                        series.decode.append(shape.extended({d: found[d]["decode_s"] for d in found}))
    return "\n\n".join(
        [
            f"Depths measured: {'all layers' if options.full_depth else ' and '.join(map(str, DEPTHS))}.",
            _seconds(shapes, times, bandwidth, flops),
            _reductions(shapes, times),
        ]
    )


def build(name: str, options: Options, depths: Sequence[int] | None) -> Shape:
    """A model of the paper with random weights, at some depths; `None` for all its layers."""
    config: dict[str, Any] = {**MODELS[name], "rope_scaling": None}
    config |= {"context_window_size": CONTEXT, "prefill_chunk_size": CHUNK, "max_batch_size": 1}
    plan = WidthPlan.from_config(config)
    directory = options.scratch / name
    (directory / "definition").mkdir(parents=True, exist_ok=True)
    files = render(plan)
    for file, text in files.items():
        (directory / "definition" / file).write_text(text)
    all_layers = load(directory / "definition", config)
    depths = depths or (plan.num_hidden_layers,)
    target = get_target("host", cpu=options.cpu)
    libraries = {}
    for depth in depths:
        definition = all_layers.truncated(depth)
        libraries[depth] = directory / str(depth) / f"host-{options.cpu or 'native'}.so"
        libraries[depth].parent.mkdir(exist_ok=True)
        if not libraries[depth].exists():
            lib = model_lib_name(files, definition, QUANTIZATION)
            place_library(definition, QUANTIZATION, target, lib, libraries[depth])
    weights = directory / f"weights-{depths[-1]}"
    if not weights.is_dir():
        logger.info(f"random weights for {depths[-1]} layers of {name}")
        weights.mkdir()
        _write_random(all_layers.truncated(depths[-1]), plan, libraries[depths[-1]], weights)
    return Shape(plan, libraries, weights)


def _write_random(definition: Definition, plan: WidthPlan, library: Path, directory: Path) -> None:
    """Write shards with random nibbles for the parameters that a library expects."""
    import tvm
    from tvm import relax

    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    metadata = json.loads(str(machine["_metadata"]()))
    random = np.random.default_rng(0)
    writer = ShardWriter(directory)
    for parameter in metadata["params"]:
        shape = parameter["shape"]
        if parameter["dtype"] == "uint32":
            # Packing never yields nibbles of 15, but they cost as much as the others.
            array = random.integers(0, 2**32, shape, np.uint32)
        else:
            array = np.full(shape, 0.002 if len(shape) > 1 else 1, parameter["dtype"])
        writer.add(parameter["name"], array)
    writer.finish(costs.parameters(plan))


def _flops(plan: WidthPlan, lengths: Lengths) -> int:
    return costs.prefill_flops(plan, lengths.prefill_tokens)


def _bytes(plan: WidthPlan, lengths: Lengths) -> int:
    context = lengths.prefill_tokens + lengths.decode_tokens // 2
    return (lengths.decode_tokens - 1) * costs.decode_read_bytes(plan, QUANTIZATION, context)


def _seconds(
    shapes: Mapping[str, Shape],
    times: Mapping[tuple[str, Lengths], Times],
    bandwidth: list[float],
    flops: list[float],
) -> str:
    rows = []
    for (name, lengths), series in times.items():
        plan = shapes[name].plan
        arithmetic = [100 * _flops(plan, lengths) / s / f for s, f in zip(series.prefill, flops[1:], strict=True)]
        reading = [100 * _bytes(plan, lengths) / s / b for s, b in zip(series.decode, bandwidth[1:], strict=True)]
        rows.append(
            [
                f"{name}, {lengths}",
                page.spread(series.prefill, 2),
                page.spread(arithmetic),
                page.spread(series.decode, 2),
                page.spread(reading),
                page.spread(series.total, 2),
            ]
        )
    header = ["", "prefill s", "% of the matmul peak", "decode s", "% of the read limit", "total s"]
    return page.table(header, rows)


def _reductions(shapes: Mapping[str, Shape], times: Mapping[tuple[str, Lengths], Times]) -> str:
    """Reduction of time in each pair of models: measured, predicted, and in the paper."""
    rows = []
    for lengths in LENGTHS:
        largest = times[LARGEST, lengths]
        prefill, decode = statistics.median(largest.prefill), statistics.median(largest.decode)
        reference = shapes[LARGEST].plan

        def predicted(
            name: str,
            lengths: Lengths = lengths,
            prefill: float = prefill,
            decode: float = decode,
            reference: WidthPlan = reference,
        ) -> float:
            plan = shapes[name].plan
            arithmetic = prefill * _flops(plan, lengths) / _flops(reference, lengths)
            return arithmetic + decode * _bytes(plan, lengths) / _bytes(reference, lengths)

        for small, large in PAIRS:
            totals = zip(times[small, lengths].total, times[large, lengths].total, strict=True)
            measured = [100 * (a / b - 1) for a, b in totals]
            expected = 100 * (predicted(small) / predicted(large) - 1)
            paper_small, paper_large = (FIGURE_4[name].get(lengths) for name in (small, large))
            rows.append(
                [
                    f"{small} against {large}, {lengths}",
                    page.spread(measured, 1),
                    f"{expected:.1f}",
                    f"{statistics.median(measured) - expected:+.1f}",
                    f"{100 * (paper_small[1] / paper_large[1] - 1):.1f}" if paper_small and paper_large else "-",
                ]
            )
    return page.table(["time, %", "measured", "predicted", "difference, points", "paper"], rows)
