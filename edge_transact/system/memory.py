"""What this process takes of the machine."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_rss_mib() -> float:
    """The most memory that this process has had resident so far, in MiB, mapped files included."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its figure starts from that of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
