"""The threads that kernels of this process run on.

TVM's defaults ignore a container's quota and bind threads to the first CPUs. Here, the number follows cores and quota,
and the system places the threads, on big cores if there are any.
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
"""The variables that TVM would read, in its order."""

_SETTINGS = {"TVM_BIND_THREADS": "0", "TVM_THREAD_POOL_SPIN_COUNT": "30000"}
"""Defaults of TVM's other variables. Between kernels, threads spin for some milliseconds, a tenth of TVM's default:
longer than any gap between two kernels, and the process ends earlier."""

MOST_PER_CPU = 8
"""The most threads for each CPU of the process: thousands would exhaust the machine."""

_BIG_CORES_FIRST = 1
"""The mode of ``runtime.config_threadpool`` that uses the first of its threads."""

_here = threading.local()
"""Its `count`: the compute threads of the current thread of Python."""


@cache
def _machine() -> Cores:
    return cores()


def default_threads() -> int:
    """Threads without ``--threads``: from the environment, or one for each big core within the quota."""
    return _from_environment() or _machine().threads


def check_threads(threads: int) -> None:
    """Warn of more threads than are fastest here; a `UsageError` for far more than there are CPUs."""
    machine = _machine()
    if threads > MOST_PER_CPU * machine.cpus:
        raise UsageError(
            f"{threads} threads are too many on {machine}", fix=f"{machine.threads} would compute fastest."
        )
    if threads > machine.threads:
        logger.warning(f"{threads} threads on {machine}: {machine.threads} would compute faster")


class Threads:
    """The threads of a model's kernels: `count`, by default `default_threads`. Raises the errors of `check_threads`."""

    def __init__(self, threads: int | None) -> None:
        if threads is not None:
            check_threads(threads)
        self.count = threads or default_threads()
        self._machine = _machine()

    def start(self, ffi: Any) -> None:
        """Start the threads unless they exist. Call it just before a kernel: they wait busily for work.

        TVM starts them once for each thread of Python; later, it can use fewer, but not more.
        """
        if getattr(_here, "count", None) == self.count:
            return
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        # In this mode, only the number of CPU names matters. TVM starts as many threads; without names, half of the
        # machine's CPUs. The number is global and read before each kernel: if it were 1, none would use threads.
        cpus = [str(cpu) for cpu in range(max(self.count, 2))]
        with _on_big_cores(self._machine, self.count):
            ffi.get_global_func("runtime.config_threadpool")(_BIG_CORES_FIRST, self.count, cpus)
        made = int(ffi.get_global_func("runtime.NumThreads")())
        if made < self.count:
            word = f"thread{'s' * (made != 1)}"
            logger.warning(f"{made} {word} instead of {self.count}: this process started with fewer")
            self.count = made
        _here.count = made
        logger.debug(f"threads: {made}; this process has {self._machine}")


@contextmanager
def _on_big_cores(machine: Cores, wanted: int) -> Iterator[None]:
    """Restrict threads that are started in the body to big cores: one on a little core would make all others wait."""
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
    """The number that TVM would read; `None` if it isn't given or isn't a number of threads."""
    for name in _VARIABLES:
        if name in os.environ:
            # OpenMP takes a list for nested regions, of which the first counts.
            match = re.match(r"\s*(\d+)", os.environ[name])
            return int(match[1]) or None if match else None
    return None
