"""The state of a training on disk: it goes on where it was stopped, on as many processes as there are then.

A snapshot is a directory of PyTorch's distributed checkpoints, into which every process writes its share, and a group
of the run's journal with the figures that go with it. The group comes last: a snapshot without one doesn't count.
"""

from __future__ import annotations

import logging
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch.distributed import checkpoint as distributed

from edge_transact.cache.journal import Journal
from edge_transact.errors import EdgeTransactError
from edge_transact.heal.processes import Processes

logger = logging.getLogger(__name__)

INTERVAL_S = 60.0
"""Seconds between two snapshots: the work that an interruption can cost."""

SHARE = 0.05
"""Of the time, at most as much goes to snapshots: they are rarer where writing takes long."""

STEP, BEST = "step", "best"

Tensors = Mapping[str, torch.Tensor]


class Snapshots:
    """The snapshots of one training: the latest, and the weights of the best step.

    Args:
        journal: The run's; its directory holds the snapshots.
        processes: Those that write and read.
    """

    def __init__(self, journal: Journal, processes: Processes) -> None:
        self._journal, self._processes = journal, processes
        self._written_s, self._took_s = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self._written_s >= max(INTERVAL_S, self._took_s / SHARE)

    def write(self, kind: str, step: int, tensors: Tensors, figures: Tensors, *, keep: int | None = None) -> None:
        """Writes a snapshot in place of the one before, which stays until the new one is complete.

        Args:
            kind: `STEP` or `BEST`.
            step: How many steps are done.
            tensors: The same names in all processes; each writes its share of what is sharded.
            figures: What belongs to it, for `read`.
            keep: The step of another one of this kind that stays.

        Raises:
            EdgeTransactError: The disk has no space for it. The one before stays.
        """
        started = time.monotonic()
        directory = self._journal.directory / f"{kind}-{step}"
        if self._processes.is_main:
            shutil.rmtree(directory, ignore_errors=True)
            self._check_space(tensors)
        self._processes.wait()
        with _quiet():
            distributed.save(dict(tensors), checkpoint_id=directory)
        self._processes.wait()
        if self._processes.is_main:
            self._journal[f"{kind}-{step}"] = figures
            for name in self._names(kind):
                if name not in (f"{kind}-{step}", f"{kind}-{keep}"):
                    self._journal.discard(name)
                    shutil.rmtree(self._journal.directory / name, ignore_errors=True)
        if kind == STEP:
            self._written_s, self._took_s = time.monotonic(), time.monotonic() - started

    def latest(self, kind: str) -> int | None:
        """The step of the snapshot that there is."""
        steps = [int(name.rpartition("-")[2]) for name in self._names(kind)]
        return max(steps, default=None)

    def read(self, kind: str, step: int, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Reads a snapshot into tensors of the names and shapes that were written. Returns its figures."""
        name = f"{kind}-{step}"
        with _quiet():
            distributed.load(dict(tensors), checkpoint_id=self._journal.directory / name)
        return self._journal[name]

    def _names(self, kind: str) -> list[str]:
        return [
            name
            for name in self._journal.names()
            if name.startswith(f"{kind}-") and (self._journal.directory / name).is_dir()
        ]

    def _check_space(self, tensors: Tensors) -> None:
        needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        free = shutil.disk_usage(self._journal.directory).free
        if needed > free:
            raise EdgeTransactError(
                f"{self._journal.directory} has {free / 2**30:.1f} GiB left, and a snapshot of the training needs "
                f"{needed / 2**30:.1f} GiB",
                fix="Free some space, and run the same command again to go on; or set EDGE_TRANSACT_CACHE.",
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without its warnings that there is one process only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.distributed")
        yield
