"""Which CPU kernel computes a matmul."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import get_args

import tvm
from tvm import tirx

from edge_transact.compiler.cpu import embedding, isa
from edge_transact.compiler.cpu.matmul import chain, kernel, supports
from edge_transact.compiler.matmul import ChainedMatmul, Matmul, Rows, rows_of


class CPUKernels:
    """The CPU's kernels, for `passes.fuse_matmuls.FuseMatmuls`.

    Args:
        target: Its features decide the instruction set, its ``num-cores`` into how many parts decode is cut.
        max_batch_size: The most sequences that the library takes.
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
        """All kernels do."""
        return True

    def rows(self, x: Sequence[tirx.Expr]) -> Rows:
        """Each kind of rows has kernels of its own, but a batch only where the library takes one."""
        rows = rows_of(x)
        return "any" if rows == "batch" and self._max_batch_size == 1 else rows

    def instructions(self, matmul: Matmul, *, rows: Rows) -> isa.InstructionSet:
        """The instruction set of a matmul. Where it multiplies bytes, fp16 activations keep 16 bits."""
        return self._instructions[2 if matmul.dtype == "float16" else 3, rows]

    def select(
        self, matmul: Matmul, x: Sequence[tirx.Expr], width: int
    ) -> tuple[Hashable, Callable[[], tirx.PrimFunc]] | None:
        """One kernel for each matmul spec and kind of rows."""
        rows = self.rows(x)
        instructions = self.instructions(matmul, rows=rows)
        if not supports(width, instructions, rows, gated=matmul.gated):
            return None
        return (matmul, rows), lambda: kernel(matmul, instructions, self.threads, rows=rows)

    def chain(self, matmuls: tuple[ChainedMatmul, ...], rows: Rows) -> tirx.PrimFunc:
        """Matmuls of one row or a batch, one after the other."""
        instructions = [self.instructions(chained.matmul, rows=rows) for chained in matmuls]
        return chain(matmuls, instructions, self.threads, rows=rows)
