"""Decode of two layers of LLaMA-2-7B's shape next to the rate at which memory is read.

A token reads 303 MB of weights, which caches don't hold, so nothing but memory should count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks import page, shapes, subjects
from benchmarks.limits import MEMORY_BYTES, Limits
from edge_transact import costs
from edge_transact.benchmarking.records.plan import Lengths, prompt_ids
from edge_transact.progress import track

if TYPE_CHECKING:
    from benchmarks.__main__ import Options

LAYERS = 2
LENGTHS = Lengths(64, 64)


def measure(options: Options) -> str:
    """Measure, and return the section's table."""
    shape = shapes.build(shapes.LARGEST, options, (LAYERS,))
    limits = Limits(options.scratch, options.threads, options.cpu)
    plan = shape.plan.with_layers(shape.plan.layers[:LAYERS])
    nbytes = costs.decode_read_bytes(plan, shapes.QUANTIZATION, LENGTHS.prefill_tokens + LENGTHS.decode_tokens // 2)
    prompt = prompt_ids(plan.vocab_size, LENGTHS.prefill_tokens)
    decode, limit = [], []
    subject = subjects.host(shape.libraries[LAYERS], shape.weights, options.threads)
    try:
        for number in track(range(options.repetitions + 1), "measure two layers of LLaMA-2-7B"):
            seconds = subject.repetition(prompt, LENGTHS.decode_tokens)
            read = limits.read_bytes_per_s(MEMORY_BYTES)
            if number:  # the first round warms up
                decode.append((LENGTHS.decode_tokens - 1) / seconds["decode_s"])
                limit.append(read / nbytes)
    finally:
        subject.close()
    shares = [100 * tokens / limited for tokens, limited in zip(decode, limit, strict=True)]
    header = ["", "decode tok/s", "read limit tok/s", "% of the read limit"]
    row = [f"{shapes.LARGEST}, {LAYERS} layers", page.spread(decode, 1), page.spread(limit, 1), page.spread(shares)]
    return page.table(header, [row])
