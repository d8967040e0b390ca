"""How long a chat takes to its first token: the real command on a pseudo terminal, with SmolLM2."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pexpect
import psutil

from benchmarks import page
from edge_transact.building.dist import build
from edge_transact.building.options import BuildOptions

logger = logging.getLogger(__name__)

MODEL, MESSAGE, STARTS = "demo:smollm2", "What is the capital of France?", 7
WAITS, ANSWERS = r"\x1b\[\?2004h", r"(?s)\x1b\[\?2004l."
"""What prompt_toolkit prints when it begins to wait for a message, and when it ends; then the first token's letter."""


@dataclass(frozen=True)
class Start:
    """Seconds since the process began, by the clock and of all its threads' CPU time."""

    s: float
    cpu_s: float


def measure(scratch: Path) -> str:
    """The section's table."""
    dist = scratch / "smollm2"
    if not dist.exists():
        build(MODEL, dist, BuildOptions(target=["host"]))
    machine = page.machine(int(os.environ.get("TVM_NUM_THREADS") or os.cpu_count() or 1))
    _start(dist, scratch)  # fills the disk cache, and compiles Python's own files
    starts = []
    for number in range(STARTS):
        starts.append(_start(dist, scratch))
        logger.info(f"start {number + 1} of {STARTS}: first token after {starts[-1][1].s:.2f} s")
    rows = []
    for place, name in enumerate(("waits for a message", "first token of the answer")):
        seconds = ([start[place].s for start in starts], [start[place].cpu_s for start in starts])
        rows.append([name, *(page.spread(values, 2) for values in seconds)])
    header = ["since the start of the process", "s", "CPU s"]
    return f"{page.table(header, rows)}\n\nMedian of {STARTS} starts (least to most), {MODEL} in q4f32_1. {machine}"


def _start(dist: Path, scratch: Path) -> tuple[Start, Start]:
    """Starts a chat, says `MESSAGE` when it waits for one, and leaves after the first token."""
    began = time.perf_counter()
    child = pexpect.spawn(
        sys.executable,
        ["-m", "edge_transact", "run", str(dist), "--temperature", "0"],
        env={**os.environ, "TERM": "xterm", "XDG_STATE_HOME": str(scratch)},
        timeout=300,
    )
    child.delaybeforesend = None  # type: ignore[assignment]
    process = psutil.Process(child.pid)

    def now() -> Start:
        times = process.cpu_times()
        return Start(time.perf_counter() - began, times.user + times.system)

    child.expect(WAITS)
    waits = now()
    child.send(f"{MESSAGE}\r")
    child.expect(ANSWERS)
    answers = now()
    child.close(force=True)
    return waits, answers
