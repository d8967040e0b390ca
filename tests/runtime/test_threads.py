"""How many threads compute: as asked, as the environment says, or as the machine has cores."""

import json
import logging
import os
import subprocess
import sys
import threading

import pytest

from edge_transact.compiler.targets import get_target
from edge_transact.errors import UsageError
from edge_transact.runtime import threads as module
from edge_transact.runtime.host import HostModel
from edge_transact.runtime.threads import Threads, default_threads
from edge_transact.system.cores import Cores
from tests.support.patience import HANG_S

TWO_OF_FOUR = Cores(cpus=4, physical=4, big=(2, 3), fast=2)


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(module, "_machine", lambda: TWO_OF_FOUR)
    for name in ("TVM_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, 2),
        ({"OMP_NUM_THREADS": "3,2"}, 3),
        ({"OMP_NUM_THREADS": "3", "TVM_NUM_THREADS": "5"}, 5),
        ({"TVM_NUM_THREADS": "0"}, 2),
        ({"TVM_NUM_THREADS": "many"}, 2),
    ],
)
def test_the_environment_comes_before_the_machine(machine, variables, count):
    for name, value in variables.items():
        machine.setenv(name, value)
    assert default_threads() == Threads(None).count == count


def test_threads_are_made_on_big_cores_and_the_caller_keeps_its_own(machine, caplog):
    """TVM's pool is pretended: it makes one thread at most."""
    machine.setattr(module, "_here", threading.local())
    caplog.set_level(logging.WARNING, "edge_transact")
    affinity, made_on, calls = [{0, 1, 2, 3}], [], []
    machine.setattr(os, "sched_getaffinity", lambda _pid: affinity[-1], raising=False)
    machine.setattr(os, "sched_setaffinity", lambda _pid, cpus: affinity.append(set(cpus)), raising=False)

    class Runtime:
        @staticmethod
        def get_global_func(name):
            def function(*arguments):
                calls.append((name, *arguments))
                made_on.append(affinity[-1])
                return 1

            return function

    threads = Threads(None)
    threads.start(Runtime)
    assert calls == [("runtime.config_threadpool", 1, 2, ["0", "1"]), ("runtime.NumThreads",)]
    assert (made_on[0], affinity[-1]) == ({2, 3}, {0, 1, 2, 3})
    assert threads.count == 1
    assert caplog.messages == ["1 thread instead of 2: this process started with fewer"]

    Threads(3).start(Runtime)  # they need little cores, too: no CPUs are chosen
    assert "3 threads on 4 cores, 2 of them little: 2 would compute faster" in caplog.messages
    assert made_on[2] == {0, 1, 2, 3}


def test_far_too_many_threads_are_refused(machine):
    assert Threads(32).count == 32
    with pytest.raises(UsageError, match="33 threads are too many on 4 cores, 2 of them little") as refused:
        Threads(33)
    assert refused.value.fix == "2 would compute fastest."


def test_a_models_threads_are_its_own(built_dist):
    """They compute, in each thread of Python, whichever other models do; and what follows sees no variable.

    The process has one CPU, so that TVM by itself would use one thread: of two CPUs it takes half, too.
    """
    program = """
import ctypes, os, sys, threading
from pathlib import Path
from edge_transact.runtime.host import HostModel
from edge_transact.runtime.threads import default_threads
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
before = default_threads()
three, one, two = (HostModel.load(Path(sys.argv[1]), threads=count) for count in (3, 1, 2))
def parts():
    tasks = []
    kernel = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    ctypes.CDLL(None).TVMBackendParallelLaunch(kernel(lambda task, *_: tasks.append(task) or 0), None, 0)
    return len(tasks)
def compute(*models):
    for model in models:
        model.prefill([1])
        print(parts())
for _ in range(2):
    thread = threading.Thread(target=compute, args=(three, one, two))
    thread.start()
    thread.join()
compute(one, two, one)
print(default_threads() == before, "TVM_NUM_THREADS" in os.environ)
"""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", program, str(built_dist)]
    output = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=HANG_S)
    assert output.stdout.split() == ["3", "1", "2"] * 2 + ["1", "2", "1", "True", "False"]


def test_a_library_says_into_how_many_parts_decode_is_divided(built_dist, caplog):
    library = next(built_dist.glob("lib/*host.so"))
    parts = HostModel(library, built_dist, threads=1).metadata["cpu"]["threads"]
    assert parts == int(get_target("host").tvm_target().attrs["num-cores"])
    caplog.clear()
    HostModel(library, built_dist, threads=parts + 1)
    said = f"was built to decode on {parts} threads, so {parts + 1} don't decode faster"
    assert any(said in message for message in caplog.messages)


def test_run_eval_and_bench_take_and_show_threads(built_dist, tmp_path):
    """In a process of its own, because TVM makes its threads once. More than this machine may have are allowed."""
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a king. " * 20)
    environment = os.environ | {"TVM_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    program = """
import json, sys
from edge_transact.cli import app
from typer.testing import CliRunner
for line in sys.argv[1:]:
    result = CliRunner().invoke(app, json.loads(line))
    print(result.stdout.splitlines()[-1])
"""
    lines = [
        ["run", str(built_dist), "--prompt", "Once", "--max-tokens", "3", "--threads", "3",
         "--temperature", "0", "--json"],
        ["eval", str(built_dist), "--text", str(text), "--window", "8", "--max-windows", "1",
         "--threads", "2", "--json"],
        ["bench", str(built_dist), "--lengths", "4+2", "--repetitions", "1", "--warmups", "0", "--threads", "2",
         "-o", str(tmp_path / "log.jsonl"), "--json"],
    ]  # fmt: skip
    command = [sys.executable, "-c", program, *map(json.dumps, lines)]
    output = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=HANG_S)
    run, evaluated, measured = map(json.loads, output.stdout.splitlines())
    assert (run["threads"], evaluated["threads"], measured["results"][0]["n_threads"]) == (3, 2, 2)
    assert len(run["tokens"]) == 3
