"""What a terminal shows while `prune`, `build` and `eval` work: how long nothing new, and how true the time left."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyte

from benchmarks import page

MODEL, RATIO = "demo:smollm2", "0.3"

TOKENS = 1024
"""Calibration tokens of `prune`."""

WINDOWS = 8

COLUMNS, LINES = 100, 40

SLACK_S = 3.0
"""Times left are compared as if they were at least this long: they are shown in whole seconds."""

_LEFT = re.compile(r"(\d+) of \d+ .*?(\d+):(\d\d):(\d\d) left")
_FORECAST = re.compile(r"about ([\d.]+) (s|min|h) on this machine, and about ([\d.]+) GiB")


@dataclass(frozen=True)
class Frame:
    """What the terminal showed.

    Attributes:
        at_s: When, since the process was started.
        cpu_s: The CPU time that it had used.
        text: The lines of the screen that hold something.
    """

    at_s: float
    cpu_s: float
    text: tuple[str, ...]

    @property
    def left_s(self) -> float | None:
        """The time left that the bar says."""
        found = next(filter(None, map(_LEFT.search, reversed(self.text))), None)
        return None if found is None else int(found[2]) * 3600 + int(found[3]) * 60 + int(found[4])

    @property
    def step(self) -> str:
        """What is being done: the words of the last line, if it is a bar; empty otherwise."""
        last = self.text[-1] if self.text else ""
        return re.split(r" +[━╸╺ -]*[━╸╺-]{3}", last)[0].strip() if re.search("[━╸╺]", last) else ""

    @property
    def news(self) -> tuple[str, ...]:
        """The screen without times and without the bars themselves, which move while nothing is known."""
        return tuple(re.sub(r"\d+:\d\d:\d\d left|[━╸╺]", "", line).strip() for line in self.text)


@dataclass(frozen=True)
class Recording:
    """A command on a terminal, from its start to its end.

    Attributes:
        frames: What it showed, whenever that changed.
        took_s: The wall time of the process.
        peak_rss_bytes: The most memory that it had resident.
    """

    frames: Sequence[Frame]
    took_s: float
    peak_rss_bytes: int

    def forecast(self) -> tuple[float, float]:
        """The seconds and the GiB that it said before it began."""
        found = next(filter(None, (_FORECAST.search(" ".join(frame.text)) for frame in self.frames)))
        return float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]], float(found[3])

    def longest(self, of: str) -> tuple[float, str]:
        """How long the longest time was in which an attribute of the frames stayed the same, and what it said."""
        worst, since, last = (0.0, ""), 0.0, None
        for frame in (*self.frames, Frame(self.took_s, 0, ("end",))):
            value = getattr(frame, of)
            if value != last:
                worst = max(worst, (frame.at_s - since, str(last)))
                since, last = frame.at_s, value
        return worst

    def nameless_s(self) -> float:
        """The longest time between two frames that said what is being done."""
        named = [0.0, *(frame.at_s for frame in self.frames if frame.step), self.took_s]
        without = [(b.at_s - a.at_s) for a, b in zip(self.frames, self.frames[1:], strict=False) if not a.step]
        return max([named[1] - named[0], *without])

    def worst_factor(self) -> float:
        """By how much the time left was too long or too short at worst, from a tenth of the time on."""
        factors = [1.0]
        for frame in self.frames:
            if frame.left_s is not None and frame.at_s > self.took_s / 10:
                said, true = (max(left, SLACK_S) for left in (frame.left_s, self.took_s - frame.at_s))
                factors.append(max(said / true, true / said))
        return max(factors)

    def steps(self) -> Iterable[tuple[str, float, float]]:
        """The steps in order: name, wall and CPU seconds until the next one is named."""
        named = [frame for frame in self.frames if frame.step]
        starts = [b for a, b in zip([None, *named], named, strict=False) if a is None or a.step != b.step]
        ends = [*starts[1:], self.frames[-1]]
        for start, end in zip(starts, ends, strict=True):
            yield start.step, end.at_s - start.at_s, end.cpu_s - start.cpu_s


def record(arguments: Sequence[str], cache: Path) -> Recording:
    """Runs ``edge-transact`` on a terminal of `COLUMNS` by `LINES`, with a cache of its own."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    size = {"COLUMNS": str(COLUMNS), "LINES": str(LINES), "TERM": "xterm-256color"}
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_transact", *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, **size, "EDGE_TRANSACT_CACHE": str(cache)},
    )
    os.close(slave)
    observed, frames, peak, cpu_s = psutil.Process(process.pid), [], 0, 0.0
    while True:
        try:
            data = os.read(master, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            break
        try:
            times = observed.cpu_times()
            cpu_s, peak = times.user + times.system, max(peak, observed.memory_info().rss)
        except psutil.Error:
            pass
        stream.feed(data)
        text = tuple(line.rstrip() for line in screen.display if line.strip())
        if not frames or frames[-1].text != text:
            frames.append(Frame(time.monotonic() - started, cpu_s, text))
    if process.wait():
        raise RuntimeError(f"{arguments} ended with {process.returncode}:\n" + "\n".join(frames[-1].text))
    return Recording(frames, time.monotonic() - started, peak)


def measure(scratch: Path) -> str:
    """The section's Markdown."""
    pruned, dist = str(scratch / "pruned"), str(scratch / "dist")
    commands = {
        "prune": ["prune", MODEL, "--ratio", RATIO, "--calibration-tokens", str(TOKENS), "-o", pruned],
        "build": ["build", pruned, "--target", "host", "-o", dist],
        "eval": ["eval", MODEL, pruned, "--max-windows", str(WINDOWS)],
    }
    commands["prune"] += ["--report", str(scratch / "report")]
    where = page.machine(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    recordings = {name: record(arguments, scratch / "cache") for name, arguments in commands.items()}
    for name, recording in recordings.items():
        lines = [f"{step}: {wall_s:.1f} s, CPU {cpu_s:.1f} s" for step, wall_s, cpu_s in recording.steps()]
        (scratch / f"{name}.txt").write_text("\n".join(lines) + "\n")
    rows = [_row(name, recording) for name, recording in recordings.items()]
    header = ["", "said", "took", "said", "peak", "without a name", "nothing new", "time left"]
    return (
        f"{page.table(header, rows)}\n\n{where} SmolLM2 cut by {float(RATIO):.0%} on {TOKENS:,} calibration "
        f"tokens, with a report; a build of that for this host; both models' perplexity on {WINDOWS} windows."
    )


def _row(name: str, recording: Recording) -> list[str]:
    seconds, gib = recording.forecast()
    silence_s, _ = recording.longest("news")
    return [
        f"`{name}`",
        f"{seconds:.0f} s",
        f"{recording.took_s:.0f} s",
        f"{gib:.1f} GiB",
        f"{recording.peak_rss_bytes / 2**30:.1f} GiB",
        f"{recording.nameless_s():.1f} s",
        f"{silence_s:.1f} s",
        f"{recording.worst_factor():.2f}",
    ]
