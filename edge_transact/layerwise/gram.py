"""Sums of products over tokens, in a chosen precision; only half of a symmetric sum is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

BLOCK = 256
"""Columns of a block, enough for the matrix products to be fast."""


@contextmanager
def sums_of(dtype: torch.dtype) -> Iterator[None]:
    """Lets fp32 products inside the context round their factors to bf16, if `dtype` is bf16; sums stay fp32.

    CPUs with bf16 products are several times as fast with them.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Gram:
    """The sum of ``x^T x`` over batches of rows, fp32 ``[size, size]``. Only blocks from the diagonal up are summed."""

    def __init__(self, size: int, device: torch.device) -> None:
        self._sum = torch.zeros(size, size, device=device)

    def add(self, x: torch.Tensor) -> None:
        """Adds rows, fp32 ``[rows, size]``."""
        for start, rows in self._blocks():
            rows[:, start:].addmm_(x[:, start : start + len(rows)].T, x[:, start:])

    def whole(self) -> torch.Tensor:
        """The complete matrix, ``[size, size]``; not a copy."""
        for start, rows in self._blocks():
            end = start + len(rows)
            self._sum[end:, start:end] = rows[:, end:].T
        return self._sum

    def narrowed(self, dims: torch.Tensor) -> Gram:
        """The sum for some columns of the rows, int64 ``[dims]``."""
        narrow = Gram(0, self._sum.device)
        narrow._sum = self.whole()[dims][:, dims]
        return narrow

    def mapped(self, into: torch.Tensor) -> Gram:
        """The sum for rows that ``x @ into.T`` are."""
        mapped = Gram(0, self._sum.device)
        mapped._sum = into @ self.whole() @ into.T
        return mapped

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        return zip(range(0, len(self._sum), BLOCK), self._sum.split(BLOCK), strict=True)
