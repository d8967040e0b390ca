"""Checks what is installed on this machine, which jobs that allows, and how to install the rest."""

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
"""Functions that examine one thing each and return its checks, in the order in which they are shown."""


def examine() -> list[Check]:
    """Runs all examiners at once, since most of them wait for other programs. A missing thing is not an error."""
    with ThreadPoolExecutor(max_workers=len(EXAMINERS)) as pool:
        return list(chain.from_iterable(pool.map(lambda examiner: examiner(), EXAMINERS)))
