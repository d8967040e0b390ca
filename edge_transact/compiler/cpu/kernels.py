"""Selects the CPU kernel of a matmul."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import get_args

import tvm
from tvm import tirx

from edge_transact.compiler.cpu import embedding, isa
from edge_transact.compiler.cpu.matmul import chain, kernel, supports
from edge_transact.compiler.matmul import ChainedMatmul, Matmul, Rows, rows_of


class CPUKernels:
    """The CPU's kernels, for `passes.fuse_matmuls`.

    Args:
        target: Its features determine the instruction set, its ``num-cores`` the parts that decode is divided into.
        max_batch_size: The library's most sequences.
    """

    def __init__(self, target: tvm.target.Target, max_batch_size: int) -> None:
        self.threads = int(target.attrs["num-cores"])
        self._max_batch_size = max_batch_size
        self._instructions = {
            (digits, rows): isa.select(target, digits, rows) for digits in (2, 3) for rows in get_args(Rows)
        }

    def embed(self, scale_dtype: str) -> tirx.PrimFunc:
        """The embedding's rows."""
        return embedding.embed(scale_dtype)

    def takes_norm(self, x: Sequence[tirx.Expr], dtype: str) -> bool:
        """Whether the kernel applies the RMSNorm before its matmul: all do."""
        return True

    def rows(self, x: Sequence[tirx.Expr]) -> Rows:
        """The kind of rows that select a kernel: a batch has its own kernels only in a library for batches."""
        rows = rows_of(x)
        return "any" if rows == "batch" and self._max_batch_size == 1 else rows

    def instructions(self, matmul: Matmul, *, rows: Rows) -> isa.InstructionSet:
        """The instruction set of a matmul. Where it multiplies bytes, fp16 activations keep 16 bits."""
        return self._instructions[2 if matmul.dtype == "float16" else 3, rows]

    def select(
        self, matmul: Matmul, x: Sequence[tirx.Expr], width: int
    ) -> tuple[Hashable, Callable[[], tirx.PrimFunc]] | None:
        """The kernel for a matmul of activations ``x [batch, tokens, K]`` and a result of `width` columns.

        Returns a key that matmuls of the same kernel share, and a function that makes the kernel; `None` if there is
        none for such a width.
        """
        rows = self.rows(x)
        instructions = self.instructions(matmul, rows=rows)
        if not supports(width, instructions, rows, gated=matmul.gated):
            return None
        return (matmul, rows), lambda: kernel(matmul, instructions, self.threads, rows=rows)

    def chain(self, matmuls: tuple[ChainedMatmul, ...], rows: Rows) -> tirx.PrimFunc:
        """Matmuls of one row or a batch, one after the other."""
        instructions = [self.instructions(chained.matmul, rows=rows) for chained in matmuls]
        return chain(matmuls, instructions, self.threads, rows=rows)
