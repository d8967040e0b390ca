"""The JSON lines that every bench speaks, read with suspicion: a device may print anything.

A line is a JSON object with ``run`` (the name that the run was started with) and ``kind``: ``start`` (``pid``),
``load``, ``check`` (the parity record's tokens), ``warmup``, ``repetition``, ``final`` (all went well), ``error``
(``code``, ``message``). The runner in ``android_bench/``, the app's benchmark activity and
`edge_transact.bench.drivers.host_runner` write them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_transact.bench.records.plan import Lengths

KINDS = ("start", "load", "check", "warmup", "repetition", "final", "error")


@dataclass(frozen=True)
class Repetition:
    """One measured repetition, durations in seconds on the device's steady clock.

    Attributes:
        index: 0, 1, ... within its run.
        ttft_s: Until the first token is chosen.
        prefill_s: The prompt, in chunks, and the choice of the first token.
        decode_steps_s: Each token after the first.
        e2e_s: All of it.
        tokens: The generated ids.
        peak_rss_mib: The process's peak resident memory so far.
    """

    index: int
    ttft_s: float
    prefill_s: float
    decode_s: float
    decode_steps_s: tuple[float, ...]
    e2e_s: float
    tokens: tuple[int, ...]
    peak_rss_mib: float | None


def parse_line(text: str, run: str) -> dict[str, Any] | None:
    """The line's object, or None when it is anything but a whole line of that run."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("run") != run or value.get("kind") not in KINDS:
        return None
    return value


def parse_repetition(line: Mapping[str, Any], lengths: Lengths) -> Repetition | None:
    """A repetition line as numbers; None when they cannot be what was measured."""
    tokens, steps = line.get("tokens"), line.get("decode_steps_s")
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        return None
    if not isinstance(steps, list) or len(tokens) != lengths.decode_tokens or len(steps) != len(tokens) - 1:
        return None
    durations: list[Any] = [line.get(name) for name in ("ttft_s", "prefill_s", "decode_s", "e2e_s")]
    if type(line.get("index")) is not int or not all(_duration(value) for value in [*durations, *steps]):
        return None
    ttft_s, prefill_s, decode_s, e2e_s = durations
    if line.get("prefill_tokens") != lengths.prefill_tokens:
        return None
    return Repetition(
        line["index"], ttft_s, prefill_s, decode_s, tuple(steps), e2e_s, tuple(tokens),
        positive(line.get("peak_rss_mib")),
    )  # fmt: skip


def positive(value: Any) -> float | None:
    """A number above 0, or None for whatever else a device says: -1 where it could not find out."""
    return float(value) if _duration(value) and value > 0 else None


def number(value: Any) -> float | None:
    """A finite number of at least 0, or None."""
    return float(value) if _duration(value) else None


def _duration(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
