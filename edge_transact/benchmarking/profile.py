"""Profiles a host library: the time in every kernel and built-in function of prefill and decode.

Products that one kernel computes are one row, which names the shapes of all their weights. The attention kernels run
inside the KV cache's built-in functions, ``vm.builtin.attention_kv_cache_*``. Instrumenting each call takes some
microseconds, which count as ``outside``.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TypedDict

from edge_transact.benchmarking.model import open_models
from edge_transact.benchmarking.records.plan import Lengths
from edge_transact.runtime.host import HostModel

OUTSIDE = "outside"
"""The time between functions: the virtual machine, Python, and the instrumentation itself."""

Key = tuple[str, str]
"""A function's name, and the shapes of its packed weights."""

Sample = tuple[Mapping[Key, float], Mapping[Key, int]]
"""Seconds and calls of each function."""


class ProfileRow(TypedDict):
    """The median time in one function in a phase: ``prefill`` of the complete prompt, or ``decode`` of one token.

    `weight` has the shapes of its packed weights.
    """

    model: str
    test: str
    phase: str
    function: str
    weight: str
    calls: int
    seconds: float
    share: float


class Recorder:
    """Adds up the time inside each function, without the functions that it calls."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._running: list[list[float]] = []
        self.seconds: defaultdict[Key, float] = defaultdict(float)
        self.calls: Counter[Key] = Counter()

    def __call__(self, _function: object, name: str, before: bool, _result: object, *arguments: object) -> None:
        """The callback for `HostModel.instrument`."""
        now = self._clock()
        if before:
            self._running.append([now, 0.0])
            return
        start, inner = self._running.pop()
        key = (name, _weight(arguments))
        self.calls[key] += 1
        self.seconds[key] += now - start - inner
        if self._running:
            self._running[-1][1] += now - start

    def taken(self, action: Callable[[], object]) -> Sample:
        """Seconds and calls of each function while `action` runs, and of `OUTSIDE`."""
        self.seconds, self.calls = defaultdict(float), Counter()
        start = self._clock()
        action()
        total = self._clock() - start
        self.seconds[OUTSIDE, ""] = total - sum(self.seconds.values())
        self.calls[OUTSIDE, ""] = 1
        return self.seconds, self.calls


def _weight(arguments: Iterable[object]) -> str:
    """``[rows, columns]`` of a kernel's packed weights, because one kernel may serve several matrices."""
    shapes = [getattr(a, "shape", ()) for a in arguments if str(getattr(a, "dtype", "")) == "uint32"]
    return ", ".join(str([int(size) for size in shape]) for shape in shapes if len(shape) == 2)


def profile_models(
    dists: Sequence[Path], lengths: Sequence[Lengths], repetitions: int, *, threads: int | None = None
) -> list[ProfileRow]:
    """Profile the host libraries of DISTs: a row for each function, the slowest first, by model, lengths and phase.

    Each decoded token is one sample. Each prompt is repeated `repetitions` times, after one that warms up.

    Raises:
        EdgeTransactError: A path isn't a DIST, or a DIST has no host library or too short a context.
    """
    rows: list[ProfileRow] = []
    for model in open_models(dists, lengths):
        host = HostModel.load(model.path, threads=threads)
        for pair in lengths:
            prompt = model.prompt(pair.prefill_tokens)
            prefill, decode = _profile(host, prompt, pair.decode_tokens, repetitions)
            rows += _rows(model.name, str(pair), "prefill", prefill) + _rows(model.name, str(pair), "decode", decode)
    return rows


def _profile(
    host: HostModel, prompt: Sequence[int], decode_tokens: int, repetitions: int
) -> tuple[list[Sample], list[Sample]]:
    """Samples of the prefill, and of each decoded token after the first."""
    recorder = Recorder()
    host.instrument(recorder)
    prefill: list[Sample] = []
    decode: list[Sample] = []
    for number in range(repetitions + 1):
        host.reset()
        taken = recorder.taken(lambda: host.prefill(prompt))
        steps = [recorder.taken(lambda: host.decode(prompt[0])) for _ in range(decode_tokens - 1)]
        if number:  # the first warms up
            prefill.append(taken)
            decode += steps
    return prefill, decode


def _rows(model: str, test: str, phase: str, samples: Iterable[Sample]) -> list[ProfileRow]:
    seconds: dict[Key, list[float]] = defaultdict(list)
    calls: dict[Key, int] = {}
    for sample, counts in samples:
        for key, value in sample.items():
            seconds[key].append(value)
            calls[key] = counts[key]
    medians = {key: median(values) for key, values in seconds.items()}
    total = sum(medians.values())
    return [
        ProfileRow(
            model=model,
            test=test,
            phase=phase,
            function=key[0],
            weight=key[1],
            calls=calls[key],
            seconds=value,
            share=value / total,
        )
        for key, value in sorted(medians.items(), key=lambda item: -item[1])
    ]


def to_markdown(rows: Iterable[ProfileRow]) -> str:
    """A Markdown table for each model, pair of lengths and phase."""
    lines: list[str] = []
    title = None
    for row in rows:
        if title != (title := (row["model"], row["test"], row["phase"])):
            lines += ["", " ".join(title), "", "| function | weight | calls | ms | % |", "|---|---|--:|--:|--:|"]
        lines.append(
            f"| {row['function']} | {row['weight']} | {row['calls']} | {1e3 * row['seconds']:.3f} "
            f"| {100 * row['share']:.1f} |"
        )
    return "\n".join(lines[1:]) + "\n"
