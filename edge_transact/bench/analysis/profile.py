"""Where a library's time goes on this host: every kernel and built-in function of prefill and decode.

Products that one kernel computes are one row, with the shapes of all their weights. The attention kernels are inside of
the KV cache's own built-in functions, ``vm.builtin.attention_kv_cache_*``. Announcing each call costs some
microseconds, which are in ``outside``.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from edge_transact.bench.model import open_models
from edge_transact.bench.records.plan import Lengths, prompt_ids
from edge_transact.runtime.host import HostModel

OUTSIDE = "outside"
"""The time between functions: the virtual machine, Python, and the instrumentation itself."""

Key = tuple[str, str]
"""A function's name, and the shapes of its packed weights."""

Sample = tuple[Mapping[Key, float], Mapping[Key, int]]
"""Seconds and calls of functions."""


class Recorder:
    """Adds up the time inside of each function, without that of functions which it calls.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._running: list[list[float]] = []
        self.seconds: defaultdict[Key, float] = defaultdict(float)
        self.calls: Counter[Key] = Counter()

    def __call__(self, _function: Any, name: str, before: bool, _result: Any, *arguments: Any) -> None:
        """What `HostModel.instrument` wants."""
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
        """Seconds and calls of each function while `action` runs, `OUTSIDE` among them."""
        self.seconds, self.calls = defaultdict(float), Counter()
        start = self._clock()
        action()
        whole = self._clock() - start
        self.seconds[OUTSIDE, ""] = whole - sum(self.seconds.values())
        self.calls[OUTSIDE, ""] = 1
        return self.seconds, self.calls


def _weight(arguments: Sequence[Any]) -> str:
    """``[rows, columns]`` of the packed weights, for those kernels that have some: one kernel serves several."""
    weights = [a for a in arguments if str(getattr(a, "dtype", "")) == "uint32" and len(a.shape) == 2]
    return ", ".join(str([int(size) for size in weight.shape]) for weight in weights)


def profile_models(dists: Sequence[Path], lengths: Sequence[Lengths], repetitions: int) -> list[dict[str, Any]]:
    """Profile the host libraries of DISTs.

    Args:
        dists: Directories that ``build`` wrote.
        lengths: Prompts to prefill; and so many decoded tokens are profiled, each by itself.
        repetitions: Of each prompt; one more, first, warms up.

    Returns:
        A row a function, the slowest first: ``model``, ``test``, ``phase`` (``prefill`` of the whole prompt,
        ``decode`` of a token), ``function``, ``weight``, ``calls``, ``seconds`` (median), ``share`` (of the phase).

    Raises:
        EdgeTransactError: A path is no DIST, has no host library, or its context is too short.
    """
    rows = []
    for model in open_models(dists, lengths):
        host, recorder = HostModel.load(model.path), Recorder()
        host.instrument(recorder)
        for pair in lengths:
            prompt = prompt_ids(model.vocab_size, pair.prefill_tokens)
            prefill, decode = [], []
            for number in range(repetitions + 1):
                host.reset()
                taken = recorder.taken(lambda: host.prefill(prompt))  # noqa: B023
                steps = [recorder.taken(lambda: host.decode(prompt[0])) for _ in range(pair.decode_tokens - 1)]  # noqa: B023
                if number:
                    prefill.append(taken)
                    decode += steps
            for phase, samples in (("prefill", prefill), ("decode", decode)):
                head = {"model": model.name, "test": str(pair), "phase": phase}
                rows += [head | row for row in _functions(samples)]
    return rows


def _functions(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    seconds: dict[Key, list[float]] = defaultdict(list)
    calls: dict[Key, int] = {}
    for sample, counts in samples:
        for key, value in sample.items():
            seconds[key].append(value)
            calls[key] = counts[key]
    medians = {key: median(values) for key, values in seconds.items()}
    whole = sum(medians.values())
    return [
        {"function": key[0], "weight": key[1], "calls": calls[key], "seconds": value, "share": value / whole}
        for key, value in sorted(medians.items(), key=lambda item: -item[1])
    ]


def to_markdown(rows: Iterable[dict[str, Any]]) -> str:
    """A table for each model, pair of lengths and phase."""
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
