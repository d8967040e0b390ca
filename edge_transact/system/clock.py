"""The wall clock of this process."""

from __future__ import annotations

import time

import psutil


def process_s() -> float:
    """Seconds since this process was started, before Python was."""
    return time.time() - psutil.Process().create_time()
