"""Which of the CPU kernels a product takes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import tvm
from tvm import tirx

from edge_transact.compiler.cpu import isa, linear
from edge_transact.compiler.matmul import Linear, Link
from edge_transact.compiler.passes.fuse_matmuls import is_one_row


class CPUKernels:
    """For `engine.fuse.FuseLinears`.

    Args:
        target: Decides the instruction set, and by its ``num-cores`` into how many parts a decode kernel is cut.
    """

    take_norm = True

    def __init__(self, target: tvm.target.Target) -> None:
        self.target, self.threads = target, int(target.attrs["num-cores"])

    def embed(self, scale_dtype: str) -> tirx.PrimFunc:
        """The embedding's rows."""
        return linear.embed(scale_dtype)

    def instructions(self, kind: Linear) -> isa.Fp32:
        """What a kind of product is computed with: where bytes are multiplied, 16 bits are enough for fp16."""
        return isa.select(self.target, 2 if kind.dtype == "float16" else 3)

    def product(self, kind: Linear, x: list[Any], width: int) -> tuple[Hashable, Callable[[], tirx.PrimFunc]] | None:
        """One kernel for each kind of product, for one row and for any number."""
        one_row, instructions = is_one_row(x), self.instructions(kind)
        if not linear.supports(width, instructions, gated=kind.gated):
            return None
        return (kind, one_row), lambda: linear.kernel(kind, instructions, self.threads, one_row=one_row)

    def chain(self, links: tuple[Link, ...]) -> tirx.PrimFunc:
        """Products of one row, one after the other."""
        return linear.chain(links, [self.instructions(link.linear) for link in links], self.threads)
