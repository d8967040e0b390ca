"""One process or several, through accelerate.

`accelerate launch` and `torchrun` start processes that know of each other, with DDP or FSDP2 as configured.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_transact import progress
from edge_transact.cache.journal import Journal
from edge_transact.cache.resume import Start, journal_of
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.system.computation import compute_device, is_bf16_fast

logger = logging.getLogger(__name__)

PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16}
"""The dtype of products by accelerate's name. fp16 would need its loss scaled, which clipping doesn't know of."""

FAILURE = "failure.txt"
"""In the directory of the run: why the first process that failed did so."""


class Processes:
    """The processes of a training.

    Attributes:
        rank: The number of this one; 0 writes the files and the log.
        dtype: The dtype of products: bf16 where the device multiplies it fast. Weights and sums are fp32.

    Raises:
        UsageError: They were launched with a mixed precision other than bf16.
    """

    def __init__(self) -> None:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, is_initialized

        device = compute_device()
        if is_initialized():  # by somebody else in this process, which has one precision
            precision = str(AcceleratorState().mixed_precision)
        else:  # what `accelerate launch` was told, else what is fast
            precision = os.environ.get("ACCELERATE_MIXED_PRECISION") or ("bf16" if is_bf16_fast(device) else "no")
        if precision not in PRECISIONS:
            raise UsageError(
                f"accelerate's mixed precision {precision}: training computes in bf16 or fp32",
                fix="Give accelerate launch --mixed_precision bf16, or no for fp32.",
            )
        self.accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
        self.count: int = self.accelerator.num_processes
        self.rank: int = self.accelerator.process_index
        self.is_main = self.rank == 0
        self.device: torch.device = self.accelerator.device
        self.dtype = PRECISIONS[precision]
        self._directory: Path | None = None
        if self.rank:
            logging.getLogger("edge_transact").setLevel(logging.WARNING)  # one process tells
            progress.console = None

    def part(self, model: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """A context for a part of a step's gradients: only the last part exchanges them between processes."""
        return nullcontext() if last else self.accelerator.no_sync(model)

    def total(self, *values: float) -> list[float]:
        if self.count == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64 if self.device.type == "cpu" else torch.float32)
        with self.failing_together():
            return self.accelerator.reduce(tensor.to(self.device)).tolist()

    def wait(self) -> None:
        with self.failing_together():
            self.accelerator.wait_for_everyone()

    def tell(self, value: Any) -> Any:
        """The value of process 0, in all processes."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        told = [value]
        broadcast_object_list(told)
        return told[0]

    @contextmanager
    def journal_of(self, what: str, ingredients: Mapping[str, object], start: Start) -> Iterator[Journal]:
        """`resume.journal_of` in process 0; the others share its directory, which they must be able to reach."""
        if not self.is_main:
            directory, failure = self.tell(None)
            if directory is None:
                raise EdgeTransactError(f"process 0 can't begin: {failure}")
            self._directory = Path(directory)
            with self.failing_together():
                yield Journal(self._directory)
            return
        begun = False
        try:
            with journal_of(what, ingredients, start) as journal:
                begun, self._directory = True, journal.directory
                (self._directory / FAILURE).unlink(missing_ok=True)
                self.tell((str(journal.directory), ""))
                with self.failing_together():
                    yield journal
        except EdgeTransactError as error:
            if not begun:
                self.tell((None, error.message))
            raise

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Writes a failure of the body where other processes find it, or raises with the failure that another has
        written.

        When a process ends, those that wait for it lose the connection at once.
        """
        try:
            yield
        except Exception as error:
            if self.count == 1 or self._directory is None or isinstance(error, _OtherFailedError):
                raise
            note = self._directory / FAILURE
            if isinstance(error, RuntimeError) and _is_connection(error):
                raise _OtherFailedError(_word_of(note, self.rank), fix="See what that process says.") from error
            with suppress(OSError):
                note.write_text(f"process {self.rank}: {error}\n")
            raise


class _OtherFailedError(EdgeTransactError):
    """Another process has ended."""


def _is_connection(error: RuntimeError) -> bool:
    words = ("connection", "gloo", "nccl", "peer", "timed out", "store")
    return type(error).__name__ in ("DistBackendError", "DistNetworkError") or any(
        word in str(error).lower() for word in words
    )


def _word_of(note: Path, rank: int) -> str:
    with suppress(OSError):
        return f"another process failed: {note.read_text().strip()}"
    return f"process {rank} lost the connection to another process, which was killed or whose machine is gone"
