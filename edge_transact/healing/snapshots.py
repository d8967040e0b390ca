"""The state of a training in the run's journal, from which it continues on any number of processes.

A snapshot is one group of whole tensors: sharded ones are gathered, and on reading, each process keeps its part.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from edge_transact.cache.journal import Journal, whole
from edge_transact.healing.processes import Processes
from edge_transact.system.disk import require_space

STEP, BEST = "step", "best"

Tensors = Mapping[str, torch.Tensor]


class Snapshots:
    """The latest snapshot of one training, and the weights of its best step. All processes call each method."""

    def __init__(self, journal: Journal, processes: Processes) -> None:
        self._journal, self._processes = journal, processes

    def is_due(self) -> bool:
        """Whether it is time for the next one, as process 0 says."""
        (due,) = self._processes.total(float(self._processes.is_main and self._journal.is_due()))
        return bool(due)

    def write(self, kind: str, step: int, tensors: Tensors, *, keep: int | None = None) -> None:
        """Writes a snapshot of `kind` `STEP` or `BEST` after so many steps; all processes have the same names of
        tensors.

        It replaces the one before, which stays until the new one is complete; that of the step `keep` stays, too.

        Raises:
            EdgeTransactError: The disk has no space for it.
        """
        name = f"{kind}-{step}"
        with self._processes.failing_together():
            if self._processes.is_main:
                needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
                fix = "Free some space, and run the same command again to go on; or set EDGE_TRANSACT_CACHE."
                require_space(self._journal.directory, needed, "a snapshot of the training needs", fix)
                if kind == STEP:
                    self._journal.write_state(name, tensors)
                else:
                    self._journal[name] = tensors
                for other in self._names(kind):
                    if other not in (name, f"{kind}-{keep}"):
                        self._journal.discard(other)
            else:
                for tensor in tensors.values():
                    whole(tensor)
        self._processes.wait()

    def latest(self, kind: str) -> int | None:
        return max((int(name.rpartition("-")[2]) for name in self._names(kind)), default=None)

    @torch.no_grad()
    def read(self, kind: str, step: int, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Reads a snapshot into the tensors whose names it has. Returns the others that were written."""
        others, missing = {}, set(tensors)
        for name, stored in self._journal.tensors(f"{kind}-{step}"):
            if name not in tensors:
                others[name] = stored
                continue
            missing.remove(name)
            target = tensors[name]
            if isinstance(target, DTensor):
                # Each process has read all of it, and none sends anything.
                stored = stored.to(target.device)
                stored = distribute_tensor(stored, target.device_mesh, target.placements, src_data_rank=None)
            target.copy_(stored)
        assert not missing, missing
        return others

    def _names(self, kind: str) -> list[str]:
        return [name for name in self._journal.names() if name.startswith(f"{kind}-")]
