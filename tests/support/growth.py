"""What a process holds, and by how much that grows while it works."""

import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil

MOST_BYTES = 64 << 20


def held() -> dict[str, int]:
    """What this process holds."""
    gc.collect()
    me = psutil.Process()
    return {
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "handles": me.num_fds(),
        "threads": me.num_threads(),
        "temporary files": len(os.listdir(tempfile.gettempdir())),
        "bytes": me.memory_info().rss,
    }


def growth(work: Callable[[int], object], times: int) -> dict[str, int]:
    """By how much `held` grows after the first tenth."""
    for number in range(times):
        if number == times // 10:
            before = held()
        work(number)
    after = held()
    grown = {name: after[name] - before[name] for name in before}
    print(f"{work.__name__}, {times} times: {before}, then {grown}")
    return grown


def require_level(grown: dict[str, int], most_bytes: int = MOST_BYTES) -> None:
    # The allocator maps and unmaps a few pieces as it pleases.
    assert grown.pop("bytes") < most_bytes and grown.pop("mappings") < 20
    assert max(grown.values()) <= 0, grown
