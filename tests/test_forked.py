"""What tests run in forks does as in processes of its own: `tests.support.forked`."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from tests.support import fork_server, forked
from tests.support.forked import EDGE_TRANSACT, Forked

WHAT_IT_SEES = """
import gc, io, os, random, signal, sys, tempfile, threading
print(__name__, sys.argv, sys.path, sys.flags, sys.executable, os.getcwd(), tempfile.gettempdir(), gc.isenabled())
print(dict(os.environ), os.getpgid(0), os.getsid(0), os.getppid(), threading.active_count(), os.umask(18))
for stream in sys.stdin, sys.stdout, sys.stderr:
    print(stream.fileno(), stream.encoding, stream.errors, stream.isatty(), stream.line_buffering, stream.write_through)
print({number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)})
print([number for number in os.listdir("/proc/self/fd") if int(number) < 3], sys.stdin.read())
"""

ENDINGS = {
    "returns": "",
    "a code": "sys.exit(7)",
    "no code": "sys.exit()",
    "words": "sys.exit('words')",
    "exit handlers": "import atexit; atexit.register(print, 'last'); sys.exit(2)",
    "an interrupt": "os.kill(os.getpid(), 2); import time; time.sleep(9)",
    "a signal": "os.kill(os.getpid(), 15)",
    "its thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('done'))).start()",
}


def both(arguments: list[str], **options) -> list[subprocess.CompletedProcess[str]]:
    options = {"capture_output": True, "text": True, "timeout": 120} | options
    return [start([sys.executable, *arguments], **options) for start in (subprocess.run, forked.run)]


def test_a_program_sees_its_own_arguments_directory_environment_and_streams(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "HOME"} | {"MINE": "é"}
    process, fork = both(["-c", WHAT_IT_SEES, "one", "two"], cwd=tmp_path, env=environment, input="typed")
    assert process.returncode == fork.returncode == 0, fork.stderr
    assert "typed" in fork.stdout and "MINE" in fork.stdout
    assert fork.stdout == process.stdout and fork.stderr == process.stderr


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_as_a_process_does(ending):
    process, fork = both(["-c", f"import os, sys; print('first')\n{ENDINGS[ending]}"])
    assert (fork.returncode, fork.stdout) == (process.returncode, process.stdout)
    if ending != "an interrupt":  # its traceback has lines of the server
        assert fork.stderr == process.stderr


def test_an_exception_is_shown_and_1():
    process, fork = both(["-c", "1 / 0"])
    assert process.returncode == fork.returncode == 1
    assert process.stderr.splitlines()[-1] == fork.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize(
    "arguments",
    [["inspect", "demo:tiny", "--json"], ["inspect", "demo:tinny"], ["inspect", "--hlep"], ["cache", "--debug"], []],
)
def test_the_command_line_prints_the_same(arguments, tiny_model):
    process, fork = both(["-m", "edge_transact", *arguments])
    assert (fork.returncode, fork.stdout, fork.stderr) == (process.returncode, process.stdout, process.stderr)
    assert fork.stdout or fork.stderr


@pytest.mark.parametrize("start", [subprocess.Popen, Forked], ids=["process", "fork"])
def test_a_terminal_is_one_and_pipes_end_with_the_program(start):
    master, slave = pty.openpty()
    process = start(
        [sys.executable, "-c", "import sys; print(sys.stdin.isatty(), sys.stdout.isatty()); input()"],
        stdin=slave,
        stdout=slave,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    os.close(slave)
    with open(master, "rb", buffering=0, closefd=False) as terminal:
        assert terminal.readline() == b"True True\r\n"
    assert os.getsid(process.pid) == process.pid and process.poll() is None
    os.write(master, b"\n")
    assert process.wait(60) == 0 and process.stderr.read() == b""
    process.stderr.close()
    os.close(master)


def test_ctrl_c_on_a_controlling_terminal_is_an_interrupt():
    master, slave = pty.openpty()
    program = "import time\ntry: print('ready'); time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(130)"
    process = Forked([sys.executable, "-c", program], stdin=slave, stdout=slave, stderr=slave, controlled=True)
    os.close(slave)
    with open(master, "rb", buffering=0, closefd=False) as terminal:
        assert terminal.readline() == b"ready\r\n"
    os.write(master, b"\x03")
    assert process.wait(60) == 130
    os.close(master)


def test_it_is_a_child_that_can_be_stopped_and_killed():
    process = Forked([sys.executable, "-c", "import time; time.sleep(60)"])
    process.send_signal(signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    begun = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.1)
    process.kill()
    assert process.wait() == -signal.SIGKILL and time.monotonic() - begun < 50


def test_nothing_of_this_repository_is_imported_before():
    program = (
        "import sys; print([module.__file__ for module in sys.modules.values() if getattr(module, '__file__', 0)])"
    )
    done = forked.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "torch" in done.stdout and f"{forked.ROOT}/" not in done.stdout.replace(fork_server.__file__, "")


def test_forks_draw_different_random_numbers():
    program = "import numpy, random; print(numpy.random.rand(), random.random())"
    first, second = (forked.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(2))
    assert set(first.stdout.split()).isdisjoint(second.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["ls"], {}),
        ([sys.executable, "program.py"], {}),
        (EDGE_TRANSACT, {"env": {**os.environ, "LC_ALL": "C"}}),
        (EDGE_TRANSACT, {"preexec_fn": print}),
    ],
)
def test_what_a_fork_cant_be_is_refused(arguments, options):
    with pytest.raises(ValueError, match="fork"):
        Forked(arguments, **options)
