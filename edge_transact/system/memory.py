"""Memory of this machine and of this process."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import psutil

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""Where Linux says who gets huge pages, such as ``always [madvise] never``."""


def total_bytes() -> int:
    return psutil.virtual_memory().total


def fits(nbytes: int) -> bool:
    """Whether `nbytes` take less than half of the memory that is available now."""
    return nbytes < psutil.virtual_memory().available / 2


def has_huge_pages() -> bool:
    """Whether Linux gives huge pages to all or to those who ask, as numpy does for arrays of 4 MiB and more."""
    try:
        return "[never]" not in HUGE_PAGES.read_text(encoding="ascii")
    except OSError:
        return False


def trim() -> None:
    """Gives freed memory back, which glibc keeps in small pieces: 0.3 GiB after a text of five million characters."""
    if sys.platform == "linux" and (of_libc := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        of_libc(0)


def peak_rss_mib() -> float:
    """The most memory that this process has had resident so far, in MiB, mapped files included."""
    # By hand: psutil tells no peak on Linux, and getrusage's starts from that of the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
