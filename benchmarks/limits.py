"""Measures the limits of this machine: how fast threads read, multiply, and see each other's writes."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np

from edge_transact.errors import EdgeTransactError
from edge_transact.system.cores import allowed_cpus

SOURCE = Path(__file__).parent / "native" / "limits.c"
PASSES = 16
"""How often a buffer is read for one figure, as the weights are for as many tokens."""

MEMORY_BYTES = 512 << 20
"""Size of a buffer that is read from memory, because no cache holds it."""

ALIGNMENT = 64


class Limits:
    """The C functions of `SOURCE`, compiled for this machine.

    Args:
        directory: Directory for the compiled libraries.
        threads: Number of threads that work at the same time.
        cpu: The CPU whose instructions multiply; `None` for this machine's. Whatever it is, memory is read with the
            best that this machine has.

    Raises:
        EdgeTransactError: There is no C compiler.
    """

    def __init__(self, directory: Path, threads: int, cpu: str | None = None) -> None:
        self._reads = _compiled(directory, "native")
        self._multiplies = _compiled(directory, cpu or "native")
        self._threads = threads
        self._buffer = np.empty(0, np.uint8)

    def read_bytes_per_s(self, nbytes: int) -> float:
        """The rate at which a buffer of that size is read repeatedly."""
        if self._buffer.nbytes < nbytes + ALIGNMENT:
            self._buffer = np.ones(nbytes + ALIGNMENT, np.uint8)
        start = -self._buffer.ctypes.data % ALIGNMENT + self._buffer.ctypes.data
        return PASSES * nbytes / self._reads.read_seconds(start, nbytes, PASSES, self._threads)

    def flops_per_s(self, passes: int = 20_000_000) -> float:
        """FLOP/s of multiply-adds in registers: of 16-bit activations and weights if the CPU can, else of fp32."""
        flops = ctypes.c_int.in_dll(self._multiplies, "flops_per_pass").value * passes * self._threads
        return flops / self._multiplies.multiply_seconds(passes, self._threads)

    def handover_s(self, passes: int = 20_000) -> float | None:
        """Seconds until one CPU sees what another has written; None if this process may use only one CPU."""
        if len(allowed_cpus()) < 2:
            return None
        return self._reads.handover_seconds(passes) / (2 * passes)


def _compiled(directory: Path, cpu: str) -> ctypes.CDLL:
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        raise EdgeTransactError(f"there is no C compiler {compiler[0]}", fix="Install gcc or clang, or set CC.")
    library = directory / f"limits-{cpu}.so"
    flags = ["-O3", f"-march={cpu}", "-ffp-contract=fast", "-shared", "-fPIC", "-pthread"]
    subprocess.run([*compiler, *flags, str(SOURCE), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    for function in ("read_seconds", "multiply_seconds", "handover_seconds"):
        getattr(loaded, function).restype = ctypes.c_double
    loaded.read_seconds.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int]
    return loaded
