"""Sums of products over tokens: in which precision, and of symmetric ones half."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

BLOCK = 256
"""Columns of a block: of whole matrices it is large enough for the products to be fast."""


@contextmanager
def sums_of(dtype: torch.dtype) -> Iterator[None]:
    """Within, fp32 products may round what they multiply to bf16, and sum in fp32, where it was bf16 before.

    CPUs that have bf16 products are several times as fast with them.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Gram:
    """The sum of ``x^T x`` over batches of rows, fp32. Of the symmetric matrix, blocks from the diagonal on are summed.

    Args:
        size: Columns of x.
        device: Where.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._sum = torch.zeros(size, size, device=device)

    def add(self, x: torch.Tensor) -> None:
        """Takes in rows, fp32 ``[rows, size]``."""
        for start, rows in self._blocks():
            rows[:, start:].addmm_(x[:, start : start + len(rows)].T, x[:, start:])

    def whole(self) -> torch.Tensor:
        """The matrix, ``[size, size]``: not a copy."""
        for start, rows in self._blocks():
            end = start + len(rows)
            self._sum[end:, start:end] = rows[:, end:].T
        return self._sum

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """The first row of each block, and its rows."""
        return zip(range(0, len(self._sum), BLOCK), self._sum.split(BLOCK), strict=True)
