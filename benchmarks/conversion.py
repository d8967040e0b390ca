"""Conversion of a bf16 checkpoint to shards: MB of input per second, and peak memory, in a process of its own."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks import page
from benchmarks.model_coverage import LLAMA_2_7B, in_own_process, write_random
from edge_transact.progress import track
from edge_transact.quantization import QUANTIZATIONS

if TYPE_CHECKING:
    from benchmarks.__main__ import Options

logger = logging.getLogger(__name__)

SPEED = {**LLAMA_2_7B, "num_hidden_layers": 2}
"""All layers are alike, so two suffice for the speed. The embedding and lm_head are complete."""

LARGE = {
    **LLAMA_2_7B,
    "vocab_size": 128256,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 1,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
"""One layer of Llama-3-70B, which has the largest matrices of all LLaMAs."""


CONVERSIONS = {
    name + (f", {rounding}" if rounding else ""): (name, rounding)
    for name, quantization in QUANTIZATIONS.items()
    for rounding in (("nearest", "search") if quantization.bits else (None,))
}
"""The quantizations, with every rounding that reads no text: quantization and rounding by the table's name."""


def measure(options: Options) -> str:
    """Measure, and return the section's table."""
    speed, memory = defaultdict(list), defaultdict(list)
    with TemporaryDirectory(dir=options.scratch) as directory:
        checkpoint = Path(directory) / "checkpoint"
        logger.info("random weights for 2 layers of LLaMA-2-7B")
        in_own_process(write_random, SPEED, checkpoint)
        nbytes = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
        for number in track(range(options.repetitions + 1), "convert"):
            for name in CONVERSIONS:
                seconds, peak = in_own_process(converted, checkpoint, name, options.threads)
                if number:  # the first round loads the checkpoint into the page cache
                    speed[name].append(nbytes / seconds / 1e6)
                    memory[name].append(peak)
    large = {}
    with TemporaryDirectory(dir=options.scratch) as directory:
        checkpoint = Path(directory) / "checkpoint"
        logger.info("random weights for a layer of Llama-3-70B")
        in_own_process(write_random, LARGE, checkpoint)
        for name in track(CONVERSIONS, "convert"):
            _, large[name] = in_own_process(converted, checkpoint, name, options.threads)
    rows = [[name, page.spread(speed[name]), page.spread(memory[name]), f"{large[name]:,.0f}"] for name in CONVERSIONS]
    header = ["", "MB/s of bf16, LLaMA-2-7B", "peak MiB", "peak MiB, Llama-3-70B's matrices"]
    return page.table(header, rows)


def converted(checkpoint: Path, name: str, threads: int) -> tuple[float, float]:
    """Convert as one of `CONVERSIONS`; returns seconds, and the process's peak memory in MiB."""

    import torch

    from edge_transact.checkpoint import Checkpoint
    from edge_transact.definition import load, render
    from edge_transact.rounding.search import searching
    from edge_transact.system.memory import peak_rss_mib
    from edge_transact.weights.convert import convert

    torch.set_num_threads(threads)
    opened = Checkpoint.open(checkpoint)
    with TemporaryDirectory(dir=checkpoint.parent) as directory:
        for file, text in render(opened.plan).items():
            (Path(directory) / file).write_text(text)
        sizes: dict[str, Any] = {"context_window_size": 2048, "prefill_chunk_size": 128, "max_batch_size": 1}
        definition = load(Path(directory), {**opened.config, "rope_scaling": None, **sizes})
        quant, rounding = CONVERSIONS[name]
        sources, quantization = definition.parameter_sources(), QUANTIZATIONS[quant]
        rounding_of = searching(opened, sources, quantization) if rounding == "search" else None
        start = time.perf_counter()
        convert(opened, sources, quantization, Path(directory), rounding_of)
        return time.perf_counter() - start, peak_rss_mib()
