"""Runs a host library as the C++ runner of ``android_bench/`` does: the same lines, in a process of its own.

So peak memory is the model's, a hang can be ended, and a crash only fails the run. A `HostRequest` comes on stdin.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edge_transact.benchmarking.records import lines
from edge_transact.errors import EdgeTransactError

if TYPE_CHECKING:
    from edge_transact.runtime.host import Batch, HostModel


@dataclass(frozen=True)
class Repetition:
    """Durations, in seconds, of one repetition, and the tokens of an answer."""

    prefill_s: float
    decode_steps_s: tuple[float, ...]
    e2e_s: float
    tokens: tuple[int, ...]


def main() -> None:
    request = lines.HostRequest(**json.load(sys.stdin))
    _write(lines.StartLine(run=request.run))
    # Before the clock starts: imports are this process's cost, not the model's.
    from edge_transact.runtime.host import Batch, HostModel, import_tvm_ffi
    from edge_transact.system.memory import peak_rss_mib

    import_tvm_ffi()
    start = time.perf_counter()
    model = HostModel.load(Path(request.dist), threads=request.threads)
    repeat, kv_tokens = partial(run_once, model, request.prompt, request.decode_tokens), model.context_window_size
    if request.batch_size > 1:
        # The last token is not appended.
        kv_tokens = len(request.prompt) + request.decode_tokens - 1
        batch = Batch(model, request.batch_size, kv_tokens)
        repeat = partial(run_together, batch, request.prompt, request.decode_tokens)
    load_s = time.perf_counter() - start
    _write(_loaded(request, load_s, model.threads, kv_tokens))
    if request.check:
        prompt, known = request.check
        tokens = run_once(model, prompt, len(known)).tokens
        differ = (i for i, (token, expected) in enumerate(zip(tokens, known, strict=True)) if token != expected)
        _write(lines.CheckLine(run=request.run, tokens_checked=len(known), tokens_agreed=next(differ, len(known))))
    for _ in range(request.warmups):
        repeat()
        _write(lines.WarmupLine(run=request.run))
    for index in range(request.repetitions):
        result = repeat()
        _write(
            lines.RepetitionLine(
                run=request.run,
                index=index,
                prefill_tokens=len(request.prompt),
                ttft_s=result.prefill_s,
                decode_s=sum(result.decode_steps_s),
                peak_rss_mib=peak_rss_mib(),
                **vars(result),
            )
        )
    _write(lines.FinalLine(run=request.run))


def run_once(model: HostModel, prompt: Sequence[int], decode_tokens: int) -> Repetition:
    """Run one repetition as the C++ runner does: greedy, with the first token from the prefill."""
    model.reset()
    return _timed(
        lambda: [int(model.prefill(prompt).argmax())],
        lambda latest: [int(model.decode(latest[0]).argmax())],
        decode_tokens,
    )


def run_together(batch: Batch, prompt: Sequence[int], decode_tokens: int) -> Repetition:
    """Run one repetition with the same prompt in all sequences: one prefill after the other, then a token of each."""
    sequences = range(len(batch.lengths))
    for sequence in sequences:
        batch.rewind(sequence, 0)
    return _timed(
        lambda: [int(batch.prefill(sequence, prompt).argmax()) for sequence in sequences],
        lambda latest: batch.decode(dict(zip(sequences, latest, strict=True))).argmax(axis=-1).tolist(),
        decode_tokens,
    )


def _timed(
    prefill: Callable[[], list[int]], decode: Callable[[list[int]], list[int]], decode_tokens: int
) -> Repetition:
    """Time a prefill and the steps after it, which give the next token of each sequence; the tokens are the first's."""
    start = time.perf_counter()
    latest = prefill()
    prefill_s = time.perf_counter() - start
    tokens, steps = [latest[0]], []
    for _ in range(decode_tokens - 1):
        since = time.perf_counter()
        latest = decode(latest)
        tokens.append(latest[0])
        steps.append(time.perf_counter() - since)
    return Repetition(prefill_s, tuple(steps), time.perf_counter() - start, tuple(tokens))


def _loaded(request: lines.HostRequest, load_s: float, threads: int, kv_tokens: int) -> lines.LoadLine:
    from edge_transact import costs
    from edge_transact.artifacts.manifest import Manifest
    from edge_transact.quantization import get_quantization

    manifest = Manifest.read(Path(request.dist))
    quantization = get_quantization(manifest.quantization)
    # A page holds tokens of one sequence alone.
    context = -(-kv_tokens // costs.PAGE_SIZE) * costs.PAGE_SIZE
    kv_bytes = costs.kv_cache_bytes(manifest.plan, quantization, context, request.batch_size)
    return lines.LoadLine(
        run=request.run,
        load_s=load_s,
        kernel_build_s=0.0,
        threads=threads,
        weights_mib=manifest.weights_bytes / 2**20,
        kv_mib=kv_bytes / 2**20,
    )


def _write(line: lines.WellFormedLine) -> None:
    sys.stdout.write(json.dumps(asdict(line)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main()
    except EdgeTransactError as error:
        sys.exit(f"{error.message}. {error.fix}")
