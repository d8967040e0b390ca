"""What a test run may leave on the machine: nothing.

A run has its own adb server port, its own directory for temporary files, and a name in the environment of its
processes. So what it leaves can be found, and other programs on the machine are not disturbed.
"""

import inspect
import os
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psutil

from tests.support.phone.leftovers import phone_leftovers

NAME = "EDGE_TEST_RUN"
"""Environment variable with the name of the run. Every process that a test starts inherits it."""

PYTHONS_OWN = "multiprocessing.resource_tracker"
"""A process that Python itself ends after pytest."""

SETTLE_S = 10
"""How long processes may take to end after the last test."""

CALLERS = 4
"""The frames of a stack of which `with_callers` tells the module and the line."""


def with_callers(frame: FrameType | None, context: int = 1) -> list[inspect.FrameInfo]:
    """`inspect.getouterframes`, which reads the sources of the nearest frames alone.

    TVM takes the whole stack for every kernel that it parses, and looks at the source of its caller. Under pytest there
    are some seventy frames, for some of which Python would search all modules.
    """
    frames = []
    while frame:
        found = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, None, None
        if len(frames) < CALLERS:
            found = inspect.getframeinfo(frame, context)
        frames.append(inspect.FrameInfo(frame, *found))
        frame = frame.f_back
    return frames


class TestRun:
    """One run of pytest, including its worker processes."""

    __test__ = False

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="edge-transact-tests-", ignore_cleanup_errors=True)
        self._name = uuid.uuid4().hex
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._adb_port = free.getsockname()[1]
        # pytest's own temporary directories stay, for people to look into.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        os.environ |= {NAME: self._name, "ANDROID_ADB_SERVER_PORT": str(self._adb_port), "TMPDIR": self._temporary.name}
        tempfile.tempdir = None

    def finish(self, *directories: Path) -> list[str]:
        """Stop the adb server that tests may have started, and remove temporary files.

        Returns:
            What tests left on the machine: processes, mounts below these directories, links of phones, binary formats.
        """
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self._adb_port)).close()
            subprocess.run(["adb", "kill-server"], check=False, capture_output=True, timeout=30)
        roots = (Path(self._temporary.name), *directories)
        deadline = time.monotonic() + SETTLE_S
        while True:
            left = [*self._processes(), *_mounts(roots), *phone_leftovers()]
            if not left or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        self._temporary.cleanup()
        return left

    def _processes(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(NAME) == self._name:
                    line = " ".join(process.cmdline())
                    if PYTHONS_OWN not in line:
                        found.append(f"process {process.pid}: {line}")
        return found


def _mounts(roots: tuple[Path, ...]) -> list[str]:
    mounts = Path("/proc/self/mountinfo")
    if not mounts.exists():  # not Linux, where no test mounts anything
        return []
    points = [Path(line.split()[4]) for line in mounts.read_text().splitlines()]
    return [f"mount {point}" for point in points if any(point.is_relative_to(root) for root in roots)]
