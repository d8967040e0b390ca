"""Runs of the command line that end at a chosen moment, in forks of a process that has imported what they import.

A moment is an event of Python's audit hooks, such as a file opened for writing or renamed: they need no clock.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import inspect
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.machine import with_callers
from tests.support.patience import HANG_S

CHANGES = {f"os.{name}" for name in ("link", "mkdir", "remove", "rename", "rmdir", "symlink")}
CHANGES |= {"subprocess.Popen", "socket.connect"}
"""The events that count, besides files opened for writing."""

HEAVY = ("torch", "transformers", "tvm", "edge_transact.cli")


@dataclass(frozen=True)
class Ended:
    """How a run ended: `code` is negative for a signal, `events` are 0 if it was killed."""

    code: int
    events: int
    cpu_s: float
    stdout: str
    stderr: str
    left: list[str]


class Runs:
    """A process that forks, as a context. Runs have a cache and temporary files of their own, in `directory`."""

    def __init__(self, directory: Path = Path(), modules: Sequence[str] = HEAVY) -> None:
        self.directory, self._modules = directory, modules

    def __enter__(self) -> Runs:
        words = [sys.executable, "-m", __name__, *self._modules]
        self._server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.wait(60)

    def within(self, directory: Path) -> Runs:
        """The same process, for runs in another directory."""
        other = Runs(directory)
        other._server = self._server
        return other

    def run(
        self,
        *words: object,
        at: int = 0,
        number: int = signal.SIGKILL,
        after_s: float = 0.0,
        umask: int = 0o022,
    ) -> Ended:
        """Runs ``edge-transact WORDS``. Its `at`-th event sends it a signal, or a kill some time later."""
        for name in ("tmp", "said"):
            (self.directory / name).mkdir(exist_ok=True)
        request = {
            "words": [str(word) for word in words],
            "directory": str(self.directory),
            "umask": umask,
            "at": at,
            "number": int(number),
            "after_s": after_s,
        }
        print(json.dumps(request), file=self._server.stdin)
        if not select.select([self._server.stdout], [], [], 300)[0]:
            self._server.kill()
            raise TimeoutError(f"{words} has not ended after 300 s")
        code, events, cpu_s, left = json.loads(self._server.stdout.readline())
        said = [(self.directory / "said" / name).read_text() for name in ("1", "2")]
        return Ended(code, events, cpu_s, *said, left)


def _serve() -> None:
    gc.disable()
    inspect.getouterframes = with_callers
    for module in sys.argv[1:]:
        importlib.import_module(module)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # for what imports print
    for line in sys.stdin:
        request = json.loads(line)
        report = Path(request["directory"], "said", "report")
        report.unlink(missing_ok=True)
        child = os.fork()
        if not child:
            _run(request, report)
            return
        _, status, used = os.wait4(child, 0)
        code, cpu_s = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        told = json.loads(report.read_text()) if report.exists() else {"events": 0, "modules": []}
        for module in told["modules"]:
            # The next fork needs no time for what this one has imported.
            if module not in sys.modules and not module.endswith("__main__"):
                with suppress(Exception):
                    importlib.import_module(module)
        print(json.dumps([code, told["events"], cpu_s, _left(child)]), file=answers)


def _run(request: dict[str, Any], report: Path) -> None:
    """In the fork: counts events, and runs the command."""
    from edge_transact.cli import main

    os.setsid()
    os.chdir(request["directory"])
    os.environ |= {"TMPDIR": os.path.abspath("tmp"), "EDGE_TRANSACT_CACHE": os.path.abspath("cache")}
    tempfile.tempdir = None
    os.umask(request["umask"])
    for descriptor in (1, 2):
        os.dup2(os.open(report.with_name(str(descriptor)), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    count, at = 0, request["at"]

    def hook(event: str, values: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CHANGES and not (event == "open" and values[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        count += 1
        if count == at and request["after_s"]:
            signal.setitimer(signal.ITIMER_REAL, request["after_s"])  # nobody handles it: it kills, inside C too
        elif count == at:
            os.kill(os.getpid(), request["number"])

    def tell() -> None:
        report.write_text(json.dumps({"events": count, "modules": list(sys.modules)}))

    atexit.register(tell)
    sys.argv = ["edge-transact", *request["words"]]
    sys.addaudithook(hook)
    main()


def _left(session: int) -> list[str]:
    """The commands of a session's processes that are still there after a while."""
    end = time.monotonic() + HANG_S
    while True:
        left = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(" ".join(process.cmdline()))
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.05)


if __name__ == "__main__":
    _serve()
