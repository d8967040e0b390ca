"""The server behind `tests.support.forked`: imports packages once, then forks for each program that it is asked to run.

``python -m tests.support.fork_server CHANNEL``, the number of a seqpacket socket. A request is the JSON of a `Request`
with the file descriptors of stdin, stdout and stderr; the answers are the PID of the program, and ``running``. It ends
with the other end of the socket.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import sys
import tempfile
import termios
import threading
import time
import traceback
import types
from pathlib import Path
from typing import NoReturn, TypedDict

PRELOADED = (
    "accelerate",
    "jinja2.sandbox",
    "PIL.Image",
    "prompt_toolkit.shortcuts",
    "psutil",
    "pydantic",
    "rich.console",
    "safetensors.torch",
    "scipy.optimize",
    "sympy",
    "tokenizers",
    "tomlkit",
    "torch._dynamo",
    "torch.distributed.tensor",
    "tvm",
    "typer.rich_utils",
)
"""What edge-transact and transformers import. Neither of these two, and no huggingface_hub: a program imports them
itself, because the order matters to tests, and because huggingface_hub reads the environment at import.
"""

LONGEST_REQUEST = 2**20


class Request(TypedDict):
    """What to run, as `subprocess.Popen` has it.

    Attributes:
        arguments: ``-m MODULE ...`` or ``-c PROGRAM ...``.
        cwd: The working directory.
        environment: All environment variables.
        new_session: Whether it gets a session of its own.
        controlled: Whether stdin is the terminal of that session, whose Ctrl-C is a signal.
    """

    arguments: list[str]
    cwd: str
    environment: dict[str, str]
    new_session: bool
    controlled: bool


def next_program(channel: socket.socket) -> Request | None:
    """Answers requests. Returns one in each process that is to run it; in the server, `None` after the last."""
    while True:
        message, streams, _, _ = socket.recv_fds(channel, LONGEST_REQUEST, 3)
        if not message:
            return None
        # The parent of the program ends at once, so that the program becomes a child of the tests' process.
        parent = os.fork()
        if parent == 0:
            ends_at_once = os.getpid()
            program = os.fork()
            if program == 0:
                channel.close()
                while os.getppid() == ends_at_once:
                    time.sleep(0.001)
                request: Request = json.loads(message)
                become(request, streams)
                return request
            channel.send(str(program).encode())
            os._exit(0)
        for stream in streams:
            os.close(stream)
        os.waitpid(parent, 0)
        channel.send(b"running")


def become(request: Request, streams: list[int]) -> None:
    """Makes of this fork what a new process would be."""
    if request["new_session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    if request["controlled"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    open_streams()
    tempfile.tempdir = None
    gc.enable()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Python's own generator does this itself
    if {"COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"} & os.environ.keys():
        importlib.import_module("coverage").process_startup()


def open_streams() -> None:
    """``sys.stdin``, ``stdout`` and ``stderr`` as Python opens them, by whether they are terminals."""
    for number, name, mode in (0, "stdin", "rb"), (1, "stdout", "wb"), (2, "stderr", "wb"):
        the_servers = getattr(sys, name)
        unbuffered = the_servers.write_through
        stream = io.TextIOWrapper(
            open(number, mode, 0 if unbuffered and number else -1, closefd=False),  # noqa: SIM115
            the_servers.encoding,
            the_servers.errors,
            line_buffering=not unbuffered and (number == 2 or os.isatty(number)),
            write_through=unbuffered,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def run(request: Request) -> None:
    """Runs the program as the only one of this process."""
    kind, program, *arguments = request["arguments"]
    sys.argv = [kind, *arguments]
    if kind == "-m":
        sys.path[0] = request["cwd"]
        sys.argv[0] = program
        runpy.run_module(program, run_name="__main__", alter_sys=True)
        return
    sys.path[0] = ""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(program, "<string>", "exec"), main.__dict__)


def end(raised: BaseException | None) -> NoReturn:
    """Ends this process as Python would: threads, exit handlers, streams, then the exit code or signal.

    What the server has imported isn't taken apart, which would take longer than many a program.

    Args:
        raised: What ended the program, if it didn't return.
    """
    code = 0 if raised is None else 1
    if isinstance(raised, SystemExit):
        code = 0 if raised.code is None else raised.code if isinstance(raised.code, int) else 1
        if code == 1 and raised.code != 1:
            print(raised.code, file=sys.stderr)
    elif raised is not None:
        traceback.print_exception(raised)
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        code = 120
    sys.stderr.flush()
    if isinstance(raised, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code & 0xFF)


def serve(channel: socket.socket) -> None:
    """Imports, then answers requests. Returns in the server alone."""
    for module in PRELOADED:
        importlib.import_module(module)
    # A fork has one thread, and locks that others held would stay locked.
    (threads,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Threads:"))
    assert threads.split()[1] == "1", f"a package that was imported has started threads: {threads}"
    gc.collect()
    gc.disable()
    gc.freeze()  # pages that the collector would write to, and forks copy
    if request := next_program(channel):
        try:
            run(request)
        except BaseException as raised:
            end(raised)
        end(None)


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    serve(socket.socket(fileno=int(sys.argv[1])))
