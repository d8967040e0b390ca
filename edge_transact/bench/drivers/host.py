"""This machine as a bench: the same plan, lines and records, from the host library."""

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
from pathlib import Path
from typing import Any

from edge_transact.bench.drivers.adb import CommandTimeout
from edge_transact.bench.drivers.devices import DeviceInfo
from edge_transact.bench.drivers.sensors import READ_SCRIPT, Reading, parse_sensors
from edge_transact.bench.model import BenchModel
from edge_transact.bench.records.lines import parse_line
from edge_transact.bench.records.plan import Visit, prompt_ids
from edge_transact.bench.run import Conditions, RunFailed
from edge_transact.errors import UsageError

logger = logging.getLogger(__name__)


class HostBench:
    """Implements `run.Bench` with `host_runner` in a child process."""

    target = "host"
    label = "host"
    fixed_performance: bool | None = None

    def __init__(self, conditions: Conditions) -> None:
        self.info = host_info()
        self._conditions = conditions
        self._cores = parse_cores(conditions.cores)
        if self._cores and (lacking := set(self._cores) - os.sched_getaffinity(0)):
            raise UsageError(f"--cores names {sorted(lacking)}, which this process may not use", fix="See `nproc`.")

    def prepare(self, models: Sequence[BenchModel], stop: threading.Event) -> bool:
        for model in models:
            model.library(self.target)
            model.manifest.verify(model.path)
        return False

    def lines(self, model: BenchModel, visit: Visit, stop: threading.Event) -> Generator[dict[str, Any], None, None]:
        run = f"run-{uuid.uuid4().hex}"
        request = {
            "dist": str(model.path),
            "run": run,
            "prompt": prompt_ids(model.vocab_size, visit.lengths.prefill_tokens),
            "decode_tokens": visit.lengths.decode_tokens,
            "repetitions": visit.repetitions,
            "warmups": self._conditions.warmups,
            "check": model.check(),
        }
        program = [sys.executable, "-m", "edge_transact.bench.drivers.host_runner"]
        logger.debug("$ %s", shlex.join(map(str, program)))
        process = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, **self._threads()},
            preexec_fn=self._choose_cores if self._cores else None,
            # Ctrl-C is ours to handle: the child is ended below.
            start_new_session=True,
        )
        noise: deque[str] = deque(maxlen=5)
        last: dict[str, Any] = {}
        try:
            assert process.stdin is not None
            with suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(json.dumps(request))
            for text in self._output(process, noise, stop):
                line = parse_line(text, run)
                if line is None:
                    noise.append(text.strip()[:200])
                else:
                    last = line
                    yield line
        finally:
            process.kill()
            process.wait()
        if not stop.is_set() and last.get("kind") != "final":
            words = f": {' | '.join(line for line in noise if line)}" if noise else ""
            raise RunFailed(f"host: {model.name} {visit.lengths}: ended without its final line{words}")

    def _output(self, process: subprocess.Popen[str], noise: deque[str], stop: threading.Event) -> Iterator[str]:
        """Lines of stdout as they come; those of stderr go to `noise`."""
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
        deadline = time.monotonic() + self._conditions.timeout_s
        while not stop.is_set():
            if time.monotonic() > deadline:
                raise CommandTimeout(f"host: a visit took longer than {self._conditions.timeout_s:g} s")
            with suppress(queue.Empty):
                text = lines.get(timeout=0.2)
                if text is None:
                    return
                yield text

    def recover(self) -> list[dict[str, Any]]:
        return []

    def read(self) -> Reading:
        script = ["sh", "-c", READ_SCRIPT]
        result = subprocess.run(script, capture_output=True, text=True, errors="replace", timeout=15)
        return parse_sensors(result.stdout, time.monotonic())

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        return True

    def close(self) -> None:
        pass

    def _threads(self) -> dict[str, str]:
        if self._conditions.threads:
            return {"TVM_NUM_THREADS": str(self._conditions.threads)}
        return {"TVM_BIND_THREADS": "0"} if self._cores else {}

    def _choose_cores(self) -> None:
        os.sched_setaffinity(0, self._cores)


def parse_cores(text: str) -> list[int]:
    """``0,4-7`` as 0, 4, 5, 6, 7; none of an empty text.

    Raises:
        UsageError: It is something else.
    """
    cores: list[int] = []
    for part in text.split(",") if text else []:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part, re.ASCII)
        named = range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)
        if not named:
            raise UsageError(f"--cores has {part!r}, which is no core", fix="Write numbers and ranges: 0,4-7.")
        cores += named
    return cores


def host_info() -> DeviceInfo:
    """This machine, in a phone's terms."""
    return DeviceInfo(
        serial="host",
        name=_cpu_name(),
        soc=None,
        abis=(platform.machine(),),
        android=None,
        sdk=None,
        fingerprint=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=os.cpu_count(),
        memory_mib=None,
        available_mib=None,
        storage_mib=None,
        opencl=None,
        battery_percent=None,
        on_battery=None,
        wireless=False,
    )


def _cpu_name() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()
