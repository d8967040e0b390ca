"""Which of the CPU kernels a product takes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import tvm
from tvm import tirx

from edge_transact.compiler.cpu import isa, matmul
from edge_transact.compiler.matmul import ChainedMatmul, Matmul
from edge_transact.compiler.passes.fuse_matmuls import is_one_row


class CPUKernels:
    """For `passes.fuse_matmuls.FuseMatmuls`.

    Args:
        target: Decides the instruction set, and by its ``num-cores`` into how many parts a decode kernel is cut.
    """

    take_norm = True

    def __init__(self, target: tvm.target.Target) -> None:
        self.target, self.threads = target, int(target.attrs["num-cores"])

    def embed(self, scale_dtype: str) -> tirx.PrimFunc:
        """The embedding's rows."""
        return matmul.embed(scale_dtype)

    def instructions(self, kind: Matmul) -> isa.Fp32:
        """What a kind of product is computed with: where bytes are multiplied, 16 bits are enough for fp16."""
        return isa.select(self.target, 2 if kind.dtype == "float16" else 3)

    def select(self, kind: Matmul, x: list[Any], width: int) -> tuple[Hashable, Callable[[], tirx.PrimFunc]] | None:
        """One kernel for each kind of product, for one row and for any number."""
        one_row, instructions = is_one_row(x), self.instructions(kind)
        if not matmul.supports(width, instructions, gated=kind.gated):
            return None
        return (kind, one_row), lambda: matmul.kernel(kind, instructions, self.threads, one_row=one_row)

    def chain(self, matmuls: tuple[ChainedMatmul, ...]) -> tirx.PrimFunc:
        """Products of one row, one after the other."""
        return matmul.chain(matmuls, [self.instructions(chained.matmul) for chained in matmuls], self.threads)
