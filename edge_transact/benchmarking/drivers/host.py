"""Runs visits on this machine, with the host library."""

from __future__ import annotations

import json
import logging
import os
import platform
import queue
import re
import shlex
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial

import psutil

from edge_transact.artifacts.dist_files import MODEL_FILES
from edge_transact.benchmarking.drivers.base import CommandTimeout, DeviceInfo, RunFailed
from edge_transact.benchmarking.model import BenchModel
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.benchmarking.records.lines import FinalLine, HostRequest, Line, parse_line
from edge_transact.benchmarking.records.plan import Visit
from edge_transact.benchmarking.records.readings import Reading, hottest_of
from edge_transact.errors import UsageError
from edge_transact.options import MOST_CPUS
from edge_transact.runtime.threads import check_threads
from edge_transact.system.cores import allowed_cpus

logger = logging.getLogger(__name__)


class HostDriver:
    """Implements `Driver` with `host_runner` in a child process; a `UsageError` for cores that it may not use."""

    target = "host"
    label = "host"
    runner_kind: str | None = None
    fixed_performance: bool | None = None

    def __init__(self, conditions: BenchOptions) -> None:
        self.info = host_info()
        self._conditions = conditions
        if conditions.threads:
            check_threads(conditions.threads)  # the process that computes has no log
        self._cores = parse_cores(conditions.cores)
        self._others = _OtherProcesses()
        if self._cores and not hasattr(os, "sched_setaffinity"):
            raise UsageError("--cores: this system binds no process to cores", fix="Leave it out; see --threads.")
        if self._cores and (lacking := set(self._cores) - allowed_cpus()):
            raise UsageError(f"--cores names {sorted(lacking)}, which this process may not use", fix="See `nproc`.")

    def prepare(self, models: Sequence[BenchModel], stop: threading.Event) -> bool:
        for model in models:
            model.library(self.target)
            model.manifest.verify(model.path, *MODEL_FILES)
        return False

    def lines(self, model: BenchModel, visit: Visit, stop: threading.Event) -> Generator[Line, None, None]:
        request = HostRequest(
            dist=str(model.path),
            run=f"run-{uuid.uuid4().hex}",
            prompt=model.prompt(visit.lengths.prefill_tokens),
            decode_tokens=visit.lengths.decode_tokens,
            batch_size=visit.lengths.batch_size,
            repetitions=visit.repetitions,
            warmups=self._conditions.warmups,
            check=model.manifest.answer(),
            threads=self._conditions.threads or None,
        )
        process = self._start(request)
        self._others.own = process
        noise: deque[str] = deque(maxlen=5)
        last: Line | None = None
        try:
            for text in self._output(process, noise, stop):
                line = parse_line(text, request.run)
                if line is None:
                    noise.append(text.strip()[:200])
                else:
                    last = line
                    yield line
        finally:
            process.kill()
            process.wait()
            self._others.own = None
        if not stop.is_set() and not isinstance(last, FinalLine):
            words = f": {' | '.join(line for line in noise if line)}" if noise else ""
            raise RunFailed(f"host: {model.name} {visit.lengths}: ended without its final line{words}")

    def _start(self, request: HostRequest) -> subprocess.Popen[str]:
        program = [sys.executable, "-m", "edge_transact.benchmarking.drivers.host_runner"]
        logger.debug("$ %s", shlex.join(program))
        process = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=partial(os.sched_setaffinity, 0, self._cores) if self._cores else None,
            # Ctrl-C goes to this process alone, which then kills the child.
            start_new_session=True,
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as stdin:
            stdin.write(json.dumps(asdict(request)))
        return process

    def _output(self, process: subprocess.Popen[str], noise: deque[str], stop: threading.Event) -> Iterator[str]:
        """Yield lines of stdout as they come; lines of stderr go to `noise`."""
        lines: queue.Queue[str | None] = queue.Queue()

        def read_stdout() -> None:
            assert process.stdout is not None
            for text in process.stdout:
                lines.put(text)
            lines.put(None)

        def read_stderr() -> None:
            assert process.stderr is not None
            for text in process.stderr:
                noise.append(text.strip()[:200])

        for reader in (read_stdout, read_stderr):
            threading.Thread(target=reader, daemon=True).start()
        deadline = time.monotonic() + self._conditions.limit_s
        while not stop.is_set():
            if time.monotonic() > deadline:
                raise CommandTimeout(f"host: a visit took longer than {self._conditions.limit_s:g} s")
            with suppress(queue.Empty):
                text = lines.get(timeout=0.2)
                if text is None:
                    return
                yield text

    def recover(self) -> list[Line]:
        return []

    def read(self) -> Reading:
        return replace(read_sensors(), other_cpu_share=self._others.share())

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        return True

    def close(self) -> None:
        pass


class _OtherProcesses:
    """What share of all cores the processes of others take: not this one, nor the runner, `own`."""

    def __init__(self) -> None:
        self.own: subprocess.Popen[str] | None = None
        self._share: float | None = None
        self._before = self._now()

    def share(self) -> float | None:
        """The mean share since the last call; the same as then if that was less than half a second ago."""
        now = self._now()
        total, busy, own = (after - before for after, before in zip(now, self._before, strict=True))
        # The clocks that count tick a hundred times a second.
        if total >= 0.5 * (os.cpu_count() or 1):
            self._share = min(1.0, max(0.0, (busy - own) / total))
            self._before = now
        return self._share

    def _now(self) -> tuple[float, float, float]:
        """Seconds of all cores together: that have passed, that were busy, and that were busy with a bench."""
        times = psutil.cpu_times()._asdict()
        # Linux counts guests as processes, too.
        total = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))
        idle = times["idle"] + times.get("iowait", 0.0)
        mine = psutil.Process().cpu_times()
        own = mine.user + mine.system + getattr(mine, "children_user", 0.0) + getattr(mine, "children_system", 0.0)
        if self.own is not None:
            with suppress(psutil.NoSuchProcess):
                runner = psutil.Process(self.own.pid).cpu_times()
                own += runner.user + runner.system
        return total, total - idle, own


def parse_cores(text: str) -> list[int]:
    """Core numbers and ranges, or none: ``0,4-7`` is 0, 4, 5, 6, 7. A `UsageError` for other texts."""
    cores: list[int] = []
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part, re.ASCII)
        named = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not named or named.stop > MOST_CPUS:
            raise UsageError(f"--cores has {part!r}, which is no core", fix="Write numbers and ranges: 0,4-7.")
        cores += named
    return cores


def read_sensors() -> Reading:
    """Read this machine's sensors, as far as the system reports them."""
    # psutil reads temperatures only on Linux and FreeBSD.
    hottest = hottest_of(
        (f"{chip} {sensor.label}", sensor.current)
        for chip, sensors in getattr(psutil, "sensors_temperatures", dict)().items()
        for sensor in sensors
    )
    battery = getattr(psutil, "sensors_battery", lambda: None)()
    return Reading(
        at_s=time.monotonic(),
        temp_c=hottest.get("skin", hottest.get("battery")),
        temp_source=next((kind for kind in ("skin", "battery") if kind in hottest), None),
        cpu_c=hottest.get("cpu"),
        gpu_c=hottest.get("gpu"),
        cpu_mhz=_cpu_mhz(),
        battery_percent=round(battery.percent) if battery else None,
        on_battery=not battery.power_plugged if battery and battery.power_plugged is not None else None,
    )


def _cpu_mhz() -> float | None:
    """Clock of the fastest core."""
    try:
        return max((clock.current for clock in psutil.cpu_freq(percpu=True) or ()), default=None)
    except (AttributeError, NotImplementedError, OSError, RuntimeError):
        # Some systems show cores without their clocks, as macOS on Apple silicon may, and psutil has no such function
        # on others.
        return None


def host_info() -> DeviceInfo:
    return DeviceInfo(
        serial="host",
        name="host",
        abis=(platform.machine(),),
        fingerprint=f"{platform.system()} {platform.release()} {platform.machine()}",
    )
