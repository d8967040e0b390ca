"""Python programs as processes, without what their imports cost: for tests that need a process, not its start.

`Forked` and `run` stand for `subprocess.Popen` and `subprocess.run`, with ``python -m MODULE`` and ``python -c
PROGRAM`` as commands: ``run([*EDGE_TRANSACT, "inspect", model])``. The program runs in a fork of a process that has
imported torch, TVM and others before, see `fork_server`; it imports ``edge_transact`` itself. It is a child of this
process, with its own arguments, working directory, environment, streams, signals and exit code.

What it is not: a test of how Python starts. Tests of imports, of the installed package, of the locale and of memory
start a real one.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import fork_server

ROOT = Path(__file__).resolve().parents[2]

EDGE_TRANSACT = [sys.executable, "-m", "edge_transact"]
"""The command line."""

READ_AT_START = ("PYTHON", "LD_", "LANG", "LC_", "OMP_", "MKL_", "OPENBLAS_")
"""How the names of environment variables begin that Python, its libraries or those of packages read when they start."""

COVERAGE = ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")
"""Which make Python measure from its start. Programs are measured, and the server isn't."""

PR_SET_CHILD_SUBREAPER = 36
"""Linux's `prctl` by which a process becomes the parent of orphans among its descendants."""


class _Server:
    """A `fork_server`, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._variables: dict[str, str] = {}

    def start(self, request: fork_server.Request, streams: Sequence[int]) -> int:
        """Runs a program. Returns its PID, a child of this process."""
        with self._lock:
            if self._process is None:
                self._launch()
            if changed := self._changed(request["environment"]):
                raise ValueError(f"a fork can't have another {', '.join(changed)}: start Python with `subprocess`")
            prctl = ctypes.CDLL(None).prctl
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            try:
                socket.send_fds(self._channel, [json.dumps(request).encode()], streams)
                pid, state = self._channel.recv(64), self._channel.recv(64)
            except OSError as error:
                raise RuntimeError(f"the fork server has ended, see its stderr: {error}") from error
            finally:
                prctl(PR_SET_CHILD_SUBREAPER, 0)
            assert state == b"running", "the fork server ended"
            return int(pid)

    def _launch(self) -> None:
        self._variables = {name: value for name, value in os.environ.items() if name not in COVERAGE}
        self._channel, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", fork_server.__name__, str(its_end.fileno())],
                cwd=ROOT,  # with its own folder on the path, tests/support/tokenizers.py would be the package
                env=self._variables,
                pass_fds=[its_end.fileno()],
            )

    def _changed(self, environment: Mapping[str, str]) -> list[str]:
        names = {name for name in (*environment, *self._variables) if name.startswith(READ_AT_START)}
        return sorted(name for name in names if environment.get(name) != self._variables.get(name))

    def stop(self) -> None:
        with self._lock:
            if self._process is not None:
                self._channel.close()
                self._process.wait()
                self._process = None


_server = _Server()

stop_server = _server.stop
"""Ends the server of this process, if there is one. A program that still runs goes on."""


class Forked(subprocess.Popen):
    """`subprocess.Popen` whose process is a fork.

    Args:
        arguments: ``[sys.executable, "-m" or "-c", MODULE or PROGRAM, ...]``.
        controlled: Whether stdin, a terminal, controls the process, as that of a shell does. It has its own session
            then.
        options: Popen's, of which ``cwd``, ``env``, ``stdin``, ``stdout``, ``stderr``, ``start_new_session`` and those
            of text mean something.

    Raises:
        ValueError: The environment differs in what is read when Python starts, or an option has no meaning here.
    """

    def __init__(self, arguments: Sequence[str | Path], *, controlled: bool = False, **options: Any) -> None:
        self._controlled = controlled
        super().__init__(arguments, **options)

    def _execute_child(self, *given: Any) -> None:
        """Popen's own step from its arguments to `pid`, with pipes that exist already."""
        options = inspect.signature(subprocess.Popen._execute_child).bind(self, *given).arguments
        arguments = [os.fspath(word) for word in options["args"]]
        forkable = arguments[:1] == [sys.executable] and arguments[1:2] in (["-m"], ["-c"])
        if not forkable or options["preexec_fn"] or options["pass_fds"]:
            raise ValueError(f"only `python -m` and `python -c` can be forked, without preexec_fn: {arguments}")
        pipes = [options[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        environment = os.environ if options["env"] is None else options["env"]
        request = fork_server.Request(
            arguments=arguments[1:],
            cwd=os.path.abspath(options["cwd"] or os.getcwd()),
            environment=dict(environment),
            new_session=options["start_new_session"] or self._controlled,
            controlled=self._controlled,
        )
        self.pid = _server.start(request, [number if pipe == -1 else pipe for number, pipe in enumerate(pipes)])
        self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(options[name] for name in ends))


def run(
    arguments: Sequence[str | Path],
    *,
    input: str | bytes | None = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess:
    """`subprocess.run` of a fork."""
    if input is not None:
        options["stdin"] = subprocess.PIPE
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Forked(arguments, **options) as process:
        try:
            output, errors = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done
