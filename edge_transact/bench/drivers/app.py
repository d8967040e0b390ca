"""A bundled app as a bench: the same visits, run by the app's benchmark activity.

The protocol, for the app's side:

- The app answers the intent action `ACTION`, with a string extra ``run``.
- In its external files directory, ``bench/RUN.json`` is the request: ``run``, ``model_lib`` (which of the app's models,
  as in its ``mlc-package-config.json``), ``prompt`` (token ids), ``decode_tokens``, ``repetitions``, ``warmups``,
  ``check`` (null, or a prompt's ids and the ids that must follow), ``timeout_s``.
- It writes the lines of `bench.records.lines` to ``bench/RUN.jsonl``, each as soon as it is known, ``final`` or
  ``error`` last.

Names and prompts travel in the file: of what people may call a model, nothing reaches a shell.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Generator, Sequence
from typing import Any

from edge_transact.bench.drivers.adb import AndroidDevice, CommandTimeout
from edge_transact.bench.drivers.devices import DeviceInfo, check
from edge_transact.bench.drivers.phone import GRACE_S, PhoneBench
from edge_transact.bench.model import BenchModel
from edge_transact.bench.records.lines import parse_line
from edge_transact.bench.records.plan import Visit, prompt_ids
from edge_transact.bench.run import Conditions, RunFailed
from edge_transact.errors import EdgeTransactError, UsageError

ACTION = "edge_transact.action.BENCH"

POLL_S = 0.5

# What the file holds beyond so many bytes, and whether the app still lives.
_POLL = """
if [ -e "$1" ]; then tail -c +$2 "$1"; fi
pidof "$3" >/dev/null
"""


class AppBench(PhoneBench):
    """Implements `run.Bench` with an installed app.

    Args:
        device, info, label, target, conditions: As for `PhoneBench`.
        package: The app's id, such as ``org.example.chat``.

    Raises:
        UsageError: `package` is no app id.
    """

    def __init__(
        self, device: AndroidDevice, info: DeviceInfo, label: str, target: str, conditions: Conditions, package: str
    ) -> None:
        if not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", package, re.ASCII):
            raise UsageError(f"--app {package!r} is no application id", fix="Write it as org.example.chat.")
        super().__init__(device, info, label, target, conditions)
        self._package = package
        self._directory = f"/sdcard/Android/data/{package}/files/bench"
        self._run: str | None = None
        self._read_bytes = 0

    def prepare(self, models: Sequence[BenchModel], stop: threading.Event) -> bool:
        check(self.info, self.target, max(model.needed_mib for model in models))
        if self.device.shell("pm", "path", self._package).code:
            raise EdgeTransactError(
                f"{self.label} has no app {self._package}", fix="Install what `edge-transact bundle` made."
            )
        self.device.checked("mkdir", "-p", self._directory)
        self.fix_performance()
        return False

    def lines(self, model: BenchModel, visit: Visit, stop: threading.Event) -> Generator[dict[str, Any], None, None]:
        run = f"run-{uuid.uuid4().hex}"
        self._run, self._read_bytes = run, 0
        request = {
            "run": run,
            "model_lib": model.manifest.model_lib,
            "prompt": prompt_ids(model.vocab_size, visit.lengths.prefill_tokens),
            "decode_tokens": visit.lengths.decode_tokens,
            "repetitions": visit.repetitions,
            "warmups": self.conditions.warmups,
            "check": model.check(),
            "timeout_s": self.conditions.timeout_s,
        }
        deadline = time.monotonic() + self.conditions.timeout_s + GRACE_S
        last: dict[str, Any] = {}
        try:
            self.device.push(json.dumps(request).encode(), f"{self._directory}/{run}.json")
            self._start(run)
            while not stop.is_set() and last.get("kind") not in ("final", "error"):
                if time.monotonic() > deadline:
                    raise CommandTimeout(f"{self.label}: the app took longer than it was given")
                lines, alive = self._poll(run)
                for line in lines:
                    last = line
                    yield line
                if not lines and not alive:
                    raise RunFailed(f"{self.label}: the app ended without its final line", fix="See `adb logcat`.")
                stop.wait(POLL_S)
        except (GeneratorExit, CommandTimeout, RunFailed):
            self._end_run()
            raise
        self._end_run()
        if last.get("kind") == "error":
            raise RunFailed(f"{self.label}, {model.name} {visit.lengths}: {last.get('message')}")

    def recover(self) -> list[dict[str, Any]]:
        """The app goes on without us: what it wrote in the meantime."""
        if self._run is None:
            return []
        lines, _ = self._poll(self._run)
        self._end_run()
        return lines

    def close(self) -> None:
        self._end_run()
        self.restore_performance()

    def _start(self, run: str) -> None:
        result = self.device.shell("am", "start", "-W", "-S", "-a", ACTION, "-p", self._package, "--es", "run", run)
        words = (result.stdout + result.stderr).strip()
        if result.code or "Error" in words:
            raise RunFailed(f"{self.label}: {self._package} does not start: {words[-300:]}")

    def _poll(self, run: str) -> tuple[list[dict[str, Any]], bool]:
        """New whole lines, and whether the app was alive after they were read."""
        path = f"{self._directory}/{run}.jsonl"
        result = self.device.script(_POLL, path, str(self._read_bytes + 1), self._package)
        whole = result.stdout[: result.stdout.rfind("\n") + 1]
        self._read_bytes += len(whole.encode())
        lines = [parse_line(line, run) for line in whole.splitlines()]
        return [line for line in lines if line is not None], result.code == 0

    def _end_run(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            self.device.shell("am", "force-stop", self._package)
            self.device.shell("rm", "-f", f"{self._directory}/{run}.json", f"{self._directory}/{run}.jsonl")
