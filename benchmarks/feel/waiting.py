"""What a terminal shows while long commands work: how long nothing new, and how true the time left is.

Seconds are those of CPU time, in one thread, here and in the commands that are recorded: what else the machine does
meanwhile doesn't count. Those of `bench`, whose models run in processes of their own, are of the wall clock. Each
command runs twice, because the second time it knows how long the first one took; of the cache, it finds only that and
the converted model.
"""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyte

from benchmarks import page
from edge_transact.cache import KINDS

MODEL, RATIO = "demo:smollm2", "0.3"

TOKENS = 1024
"""Calibration tokens of `prune`."""

TRAIN_TOKENS = 16384
"""Tokens that `heal` trains on, at a rate so low that it doesn't stop early."""

WINDOWS = 16

AGAIN = {"prune": ["--force"], "build": ["--force"], "heal": ["--force"], "eval": [], "bench": ["--fresh"]}
"""What the second call of a command needs besides."""

IN_WALL_S = ("bench",)
"""Commands whose seconds are those of the wall clock."""

COLUMNS, LINES = 100, 40

SLACK_S = 3.0
"""Times left are compared as if they were at least this long: they are shown in whole seconds."""

PROGRAM = """
import sys, time, types
from edge_transact import cli, progress

progress.time = types.SimpleNamespace(monotonic=time.process_time, process_time=time.process_time)
sys.argv[0] = "edge-transact"
cli.main()
"""
"""The command line with CPU time as its clock."""

ON_WALL_CLOCK = "import sys; from edge_transact import cli; sys.argv[0] = 'edge-transact'; cli.main()"

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS", "RAYON_NUM_THREADS")}

_LEFT = re.compile(r"(\d+) of \d+ .*?(\d+):(\d\d):(\d\d) left")
_LEFT_IN_WORDS = re.compile(r"about ([\d.]+) (s|min|h) left$")
_MEMORY = re.compile(r"about ([\d.]+) ([MG])B of memory")

_SECONDS = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Frame:
    """What the terminal showed.

    Attributes:
        at_s: When: the CPU time that the process had used.
        text: The lines of the screen that hold something.
    """

    at_s: float
    text: tuple[str, ...]

    @property
    def left_s(self) -> float | None:
        """The time left that the bar says."""
        if found := next(filter(None, map(_LEFT.search, reversed(self.text))), None):
            return int(found[2]) * 3600 + int(found[3]) * 60 + int(found[4])
        if found := _LEFT_IN_WORDS.search(self.text[-1] if self.text else ""):
            return float(found[1]) * _SECONDS[found[2]]
        return None

    @property
    def step(self) -> str:
        """What is being done: the words of the last line, if it is a bar or ends in a time left; empty otherwise."""
        last = self.text[-1] if self.text else ""
        if _LEFT_IN_WORDS.search(last):
            return last
        return re.split(r" +[━╸╺ -]*[━╸╺-]{3}", last)[0].strip() if re.search("[━╸╺]", last) else ""

    @property
    def news(self) -> tuple[str, ...]:
        """The screen without times and without the bars themselves, which move while nothing is known."""
        return tuple(re.sub(r"\d+:\d\d:\d\d( left)?$|\d+ s$|[━╸╺]", "", line).strip() for line in self.text)


@dataclass(frozen=True)
class Recording:
    """A command on a terminal, from its start to its end.

    Attributes:
        frames: What it showed, whenever that changed.
        took_s: The CPU time of the process, or the time of the wall clock.
        peak_rss_bytes: The most memory that it had resident.
    """

    frames: Sequence[Frame]
    took_s: float
    peak_rss_bytes: int

    def memory_gb(self) -> float | None:
        """The GB of memory that it said it needs."""
        found = next(filter(None, (_MEMORY.search(" ".join(frame.text)) for frame in self.frames)), None)
        return float(found[1]) / (1 if found[2] == "G" else 1000) if found else None

    def longest(self, of: str) -> tuple[float, str]:
        """How long the longest time was in which an attribute of the frames stayed the same, and what it said."""
        worst, since, last = (0.0, ""), 0.0, None
        for frame in (*self.frames, Frame(self.took_s, ("end",))):
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

    def factors(self) -> tuple[float, float] | None:
        """By how much the time left was too long or too short: a quarter of the way in, and at worst from there on."""
        factors = []
        for frame in self.frames:
            if frame.left_s is not None and frame.at_s > self.took_s / 4:
                said, true = (max(left, SLACK_S) for left in (frame.left_s, self.took_s - frame.at_s))
                factors.append(max(said / true, true / said))
        return (factors[0], max(factors)) if factors else None

    def times_left(self) -> str:
        """The times left that it said, a line for each: when, what it said, and how long it took from then on."""
        said = {frame.left_s: frame for frame in self.frames if frame.left_s is not None}.values()
        return "".join(f"{f.at_s:.1f} s: {f.left_s} s left, {self.took_s - f.at_s:.1f} s in truth\n" for f in said)

    def steps(self) -> Iterable[tuple[str, float]]:
        """The steps in order: name, and seconds until the next one is named."""
        named = [frame for frame in self.frames if frame.step]
        starts = [b for a, b in zip([None, *named], named, strict=False) if a is None or a.step != b.step]
        ends = [*starts[1:], self.frames[-1]]
        for start, end in zip(starts, ends, strict=True):
            yield start.step, end.at_s - start.at_s


def record(arguments: Sequence[str], cache: Path) -> Recording:
    """Runs ``edge-transact`` on a terminal of `COLUMNS` by `LINES`, with a cache of its own."""
    in_wall_s, started_s = arguments[0] in IN_WALL_S, time.monotonic()
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    master, slave = pty.openpty()
    size = {"COLUMNS": str(COLUMNS), "LINES": str(LINES), "TERM": "xterm-256color"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        [sys.executable, "-c", ON_WALL_CLOCK if in_wall_s else PROGRAM, *arguments],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, **size, **ONE_THREAD, "EDGE_TRANSACT_CACHE": str(cache)},
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
            frames.append(Frame(time.monotonic() - started_s if in_wall_s else cpu_s, text))
    if process.wait():
        raise RuntimeError(f"{arguments} ended with {process.returncode}:\n" + "\n".join(frames[-1].text))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Recording(frames, time.monotonic() - started_s if in_wall_s else cpu_s, peak)


def commands(scratch: Path) -> dict[str, list[str]]:
    """The commands by name."""
    prune = ["prune", MODEL, "--ratio", RATIO, "--calibration-tokens", str(TOKENS), "-o", str(scratch / "pruned")]
    return {
        "prune": [*prune, "--report", str(scratch / "report")],
        "build": ["build", MODEL, "--target", "host", "-o", str(scratch / "dist")],
        "heal": [
            *("heal", str(scratch / "pruned"), "--train-tokens", str(TRAIN_TOKENS), "--learning-rate", "1e-5"),
            *("-o", str(scratch / "healed")),
        ],
        "eval": ["eval", MODEL, "--max-windows", str(WINDOWS)],
        "bench": ["bench", str(scratch / "dist"), "-o", str(scratch / "bench.jsonl")],
    }


def rows(name: str, scratch: Path) -> list[list[str]]:
    """A command's rows of the table, of its first and its second call; from `scratch` if they are there."""
    found = []
    for turn, again in (("first", []), ("second", AGAIN[name])):
        kept, cache = scratch / f"{name}-{turn}.json", scratch / f"cache-{name}"
        if not kept.exists():
            for kind in KINDS.keys() - {"converted", "times"}:
                shutil.rmtree(cache / kind, ignore_errors=True)
            recording = record([*commands(scratch)[name], *again], cache)
            steps = "".join(f"{step}: {seconds:.1f} s\n" for step, seconds in recording.steps())
            (scratch / f"{name}-{turn}.txt").write_text(f"{steps}\n{recording.times_left()}")
            kept.write_text(json.dumps(_row(f"`{name}`, {turn} time", recording)))
        found.append(json.loads(kept.read_text()))
    return found


def measure(scratch: Path) -> str:
    """The section's Markdown."""
    where = page.machine(1)
    header = ["", "took", "said", "peak", "without a name", "nothing new", "time left, at a quarter", "from there on"]
    table = page.table(header, [row for name in commands(scratch) for row in rows(name, scratch)])
    return (
        f"{table}\n\n{where} SmolLM2 cut by {float(RATIO):.0%} on {TOKENS:,} calibration tokens, with a report; a "
        f"build of SmolLM2 for this host; the pruned model trained on {TRAIN_TOKENS:,} tokens; the perplexity "
        f"of SmolLM2 on {WINDOWS} windows; a bench of SmolLM2's library on this host."
    )


def _row(name: str, recording: Recording) -> list[str]:
    memory, factors = recording.memory_gb(), recording.factors()
    silence_s, _ = recording.longest("news")
    return [
        name,
        f"{recording.took_s:.0f} s",
        "" if memory is None else f"{memory:.1f} GB",
        "" if memory is None else f"{recording.peak_rss_bytes / 1e9:.1f} GB",
        f"{recording.nameless_s():.1f} s",
        f"{silence_s:.1f} s",
        *(["", ""] if factors is None else [f"{factor:.2f}" for factor in factors]),
    ]
