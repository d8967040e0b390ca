"""How many threads the kernels of this process run on.

TVM's runtime reads ``TVM_NUM_THREADS`` when a thread of Python first calls a kernel, and makes the others then. Without
it, TVM takes half of the CPUs on x86-64, whether or not two of them share a core, and knows of no container's quota. It
also binds its threads to the CPUs that come first, whoever else runs there and whatever cores they are; here the system
places them, and TVM's threads stay on big cores where there are little ones, too.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from edge_transact.system.cores import Cores, cores

logger = logging.getLogger(__name__)

_VARIABLES = ("TVM_NUM_THREADS", "OMP_NUM_THREADS")
"""What TVM reads, in its order."""

_SETTINGS = {"TVM_BIND_THREADS": "0", "TVM_THREAD_POOL_SPIN_COUNT": "30000"}
"""TVM's other variables, where they aren't given. Between kernels, threads wait busily for some milliseconds, a tenth
of what they do by default: still longer than anything between two kernels, and a process ends that much earlier.
"""

_BIG_CORES_FIRST = 1
"""The mode of ``runtime.config_threadpool`` that takes the first of the threads there are."""


@cache
def _machine() -> Cores:
    return cores()


def default_threads() -> int:
    """Threads without ``--threads``: as the environment says, or one for each big core within the quota."""
    return _from_environment() or _machine().threads


class Threads:
    """The threads of a model's kernels.

    Args:
        threads: How many, at least 1; `None` for `default_threads`.

    Attributes:
        count: How many.
    """

    def __init__(self, threads: int | None) -> None:
        self.count = threads or default_threads()
        self._machine = _machine()
        if threads is not None and threads > self._machine.threads:
            logger.warning(f"{threads} threads on {self._machine}: {self._machine.threads} would compute faster")

    def start(self, ffi: Any) -> None:
        """Makes the threads. Call it before the first kernel, and not much before: they wait busily for work.

        TVM makes them once for each thread of Python that calls kernels. Later they can become fewer, but not more.

        Args:
            ffi: tvm_ffi, with TVM's runtime loaded.
        """
        os.environ[_VARIABLES[0]] = str(self.count)
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        with _on_big_cores(self._machine, self.count):
            ffi.get_global_func("runtime.config_threadpool")(_BIG_CORES_FIRST, self.count)
        made = int(ffi.get_global_func("runtime.NumThreads")())
        if made < self.count:
            word = f"thread{'s' * (made != 1)}"
            logger.warning(f"{made} {word} instead of {self.count}: this process has begun with fewer")
            self.count = made
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
