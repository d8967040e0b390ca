"""Checks what is installed on this machine, which jobs that allows, and how to install the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from edge_transact.doctor import android, packages, system
from edge_transact.doctor.check import JOBS, Check, Job, needed_for

__all__ = ["APP_EXAMINERS", "JOBS", "Check", "Job", "examine", "needed_for"]

Examiner = Callable[[], Sequence[Check]]
"""Examines one thing, and returns its checks."""

CORE_EXAMINERS: tuple[Examiner, ...] = (system.python, packages.packages, packages.extras, system.compiler)
_APP_TOOLS: tuple[Examiner, ...] = (
    android.sdk, android.ndk, android.jdk, android.gradle, android.rust, android.mlc,
)  # fmt: skip
APP_EXAMINERS = (*CORE_EXAMINERS, *_APP_TOOLS)
"""The examiners for the job ``app``, in the order of their output."""
EXAMINERS = (
    *CORE_EXAMINERS, system.tvm_targets, system.resources, system.hub, android.adb, android.bench, *_APP_TOOLS,
)  # fmt: skip
"""All examiners, in the order of their output."""


def examine(examiners: Sequence[Examiner] = EXAMINERS) -> list[Check]:
    """Runs examiners in parallel, because most wait for other programs. A missing thing is not an error."""
    with ThreadPoolExecutor(max_workers=len(examiners)) as pool:
        return list(chain.from_iterable(pool.map(lambda examiner: examiner(), examiners)))
