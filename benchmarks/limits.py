"""The limits of this machine, measured as the models are: how fast threads read, multiply, and hear of each other."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np

from edge_transact.errors import EdgeTransactError

SOURCE = Path(__file__).parent / "native" / "limits.c"
PASSES = 16
"""A buffer is read so often for one figure, like the weights for so many tokens."""

MEMORY_BYTES = 512 << 20
"""Of a buffer that is read from memory: far more than any cache holds."""

ALIGNMENT = 64


class Limits:
    """`SOURCE`, compiled for this machine.

    Args:
        directory: Where the compiled library goes.
        threads: How many work at once.

    Raises:
        EdgeTransactError: There is no C compiler.
    """

    def __init__(self, directory: Path, threads: int) -> None:
        compiler = shlex.split(os.environ.get("CC", "cc"))
        if shutil.which(compiler[0]) is None:
            raise EdgeTransactError(f"there is no C compiler {compiler[0]}", fix="Install gcc or clang, or set CC.")
        library = directory / "limits.so"
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread"]
        subprocess.run([*compiler, *flags, str(SOURCE), "-o", str(library)], check=True)
        self._library, self._threads = ctypes.CDLL(str(library)), threads
        for function in ("read_seconds", "multiply_seconds", "handover_seconds"):
            getattr(self._library, function).restype = ctypes.c_double
        self._library.read_seconds.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int]
        self._buffer = np.empty(0, np.uint8)

    def read_bytes_per_s(self, nbytes: int) -> float:
        """The rate at which a buffer of that size is read, again and again."""
        if self._buffer.nbytes < nbytes + ALIGNMENT:
            self._buffer = np.ones(nbytes + ALIGNMENT, np.uint8)
        start = -self._buffer.ctypes.data % ALIGNMENT + self._buffer.ctypes.data
        return PASSES * nbytes / self._library.read_seconds(start, nbytes, PASSES, self._threads)

    def flops_per_s(self, passes: int = 20_000_000) -> float:
        """FLOPs a second of multiply-adds in registers: 16-bit activations by bytes where CPUs have that, else fp32."""
        flops = ctypes.c_int.in_dll(self._library, "flops_per_pass").value * passes * self._threads
        return flops / self._library.multiply_seconds(passes, self._threads)

    def handover_s(self, passes: int = 20_000) -> float | None:
        """The time until one CPU sees what another has written; nothing where this process has but one."""
        if len(os.sched_getaffinity(0)) < 2:
            return None
        return self._library.handover_seconds(passes) / (2 * passes)
