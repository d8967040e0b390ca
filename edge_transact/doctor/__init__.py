"""What this machine has and lacks, which jobs that leaves possible, and how to get the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from edge_transact.doctor import android, packages, system
from edge_transact.doctor.check import Check
from edge_transact.doctor.jobs import JOBS, Job, needed_for

__all__ = ["JOBS", "Check", "Job", "examine", "needed_for"]

EXAMINERS: tuple[Callable[[], Sequence[Check]], ...] = (
    system.python,
    packages.packages,
    packages.extras,
    system.tvm_targets,
    system.compiler,
    system.resources,
    system.hub,
    android.adb,
    android.sdk,
    android.ndk,
    android.bench,
    android.jdk,
    android.rust,
    android.mlc,
)
"""Each looks at one thing and answers with one check or several, in the order in which people read them."""


def examine() -> list[Check]:
    """Looks at everything, at once: most of it is waiting for other programs. What is missing is no error."""
    with ThreadPoolExecutor(max_workers=len(EXAMINERS)) as pool:
        return list(chain.from_iterable(pool.map(lambda examiner: examiner(), EXAMINERS)))
