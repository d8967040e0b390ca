"""How many threads the kernels of this process run on.

By itself, TVM's runtime takes half of the CPUs on x86-64, whether or not two of them share a core, and knows of no
container's quota. It also binds its threads to the CPUs that come first, whoever else runs there and whatever cores
they are; here the system places them, and TVM's threads stay on big cores where there are little ones, too.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from edge_transact.errors import UsageError
from edge_transact.system.cores import Cores, cores

logger = logging.getLogger(__name__)

_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS")
"""What TVM would read, in its order."""

_SETTINGS = {"TVM_BIND_THREADS": "0", "TVM_THREAD_POOL_SPIN_COUNT": "30000"}
"""TVM's other variables, where they aren't given. Between kernels, threads wait busily for some milliseconds, a tenth
of what they do by default: still longer than anything between two kernels, and a process ends that much earlier.
"""

MOST_PER_CPU = 8
"""Threads for each CPU that a process may use at most: thousands would take the machine's time and memory."""

_BIG_CORES_FIRST = 1
"""The mode of ``runtime.config_threadpool`` that takes the first of the threads there are."""

_here = threading.local()
"""Its `count`: how many threads compute what the current thread of Python calls."""


@cache
def _machine() -> Cores:
    return cores()


def default_threads() -> int:
    """Threads without ``--threads``: as the environment says, or one for each big core within the quota."""
    return _from_environment() or _machine().threads


def check_threads(threads: int) -> None:
    """Warn of more threads than compute fastest here.

    Raises:
        UsageError: They are far more than there are CPUs.
    """
    machine = _machine()
    if threads > MOST_PER_CPU * machine.cpus:
        raise UsageError(
            f"{threads} threads are too many on {machine}", fix=f"{machine.threads} would compute fastest."
        )
    if threads > machine.threads:
        logger.warning(f"{threads} threads on {machine}: {machine.threads} would compute faster")


class Threads:
    """The threads of a model's kernels.

    Args:
        threads: How many, at least 1; `None` for `default_threads`.

    Attributes:
        count: How many.

    Raises:
        UsageError: As `check_threads`.
    """

    def __init__(self, threads: int | None) -> None:
        if threads is not None:
            check_threads(threads)
        self.count = threads or default_threads()
        self._machine = _machine()

    def start(self, ffi: Any) -> None:
        """Makes the threads, unless they are there. Call it just before a kernel: they wait busily for work.

        TVM makes them once for each thread of Python that calls kernels. Later fewer of them can compute, but not more.

        Args:
            ffi: tvm_ffi, with TVM's runtime loaded.
        """
        if getattr(_here, "count", None) == self.count:
            return
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        # In this mode, the names of CPUs don't matter, but how many there are. TVM makes as many threads, and asks for
        # this number, one in the whole process, before each kernel: were it 1, no kernel would run on several threads.
        # Without names, it would be half of the machine's CPUs.
        cpus = [str(cpu) for cpu in range(max(self.count, 2))]
        with _on_big_cores(self._machine, self.count):
            ffi.get_global_func("runtime.config_threadpool")(_BIG_CORES_FIRST, self.count, cpus)
        made = int(ffi.get_global_func("runtime.NumThreads")())
        if made < self.count:
            word = f"thread{'s' * (made != 1)}"
            logger.warning(f"{made} {word} instead of {self.count}: this process has begun with fewer")
            self.count = made
        _here.count = made
        logger.debug(f"threads: {made}; this process has {self._machine}")


@contextmanager
def _on_big_cores(machine: Cores, wanted: int) -> Iterator[None]:
    """Threads that are made in the body stay on big cores: they inherit this one's CPUs, which it gets back.

    Left to the system, some of them run on little cores as long as they seem idle, and all others wait for those.
    """
    if not machine.has_little or not machine.big or wanted > machine.fast:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, machine.big)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _from_environment() -> int | None:
    """The number that TVM would read; `None` if it isn't given, or is no number of threads."""
    for name in _VARIABLES:
        if name in os.environ:
            # OpenMP takes a list for nested regions, of which the first counts.
            match = re.match(r"\s*(\d+)", os.environ[name])
            return int(match[1]) or None if match else None
    return None
