"""The buffers of a matmul kernel and their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr, IntImm, Var

from edge_transact.compiler.matmul import Matmul, Rows
from edge_transact.compiler.vector import Index, cast
from edge_transact.quantization import GROUP_SIZE, WORDS_PER_GROUP

Row: TypeAlias = tuple[Expr, Expr]
"""A row's first two indices: its sequence (or the thread whose copy it is in) and its token."""


class MatmulBuffers:
    """A matmul's buffers and their sizes (int32).

    Args:
        matmul: The matmul.
        arguments: The kernel's arguments by name. Without ``out`` the result stays inside the kernel.
        rows: The rows of `x`; not ``any`` with `copies`, or if `x` is given.
        given: Results of earlier matmuls of the same kernel that are operands here, by name.
        copies: How many threads have a copy of the result for later matmuls; 0 if they share it.

    Attributes:
        x, weight, scale, norm, bias, residual, out: The buffers; `None` where the matmul has none.
        returned: The kernel's result where `out` holds copies of it; else `None`.
        rows, features, width: Rows of `x`, its columns (K), and columns of `out` (N, or N / 2 if gated).
        groups, words: Groups and words along K in the packed weight.
    """

    def __init__(
        self,
        matmul: Matmul,
        arguments: Mapping[str, Var],
        *,
        rows: Rows,
        given: Mapping[str, Buffer] = MappingProxyType({}),
        copies: int = 0,
    ) -> None:
        self.matmul = matmul
        n = T.int64()
        width = n // matmul.sections if matmul.gated else n
        k = given["x"].shape[-1] if "x" in given else T.int64()
        tokens = T.int64(1) if rows == "one" else given["x"].shape[1] if "x" in given else T.int64()
        leading = (T.int64() if rows == "any" else T.int64(1), tokens)
        groups = (k + (GROUP_SIZE - 1)) // GROUP_SIZE
        buffers: dict[str, Buffer] = dict(given)
        tensors = matmul.tensors(leading, k, n, width)
        for name, (shape, dtype) in tensors.items():
            if name in arguments:
                buffers[name] = T.match_buffer(arguments[name], shape, dtype)
        self.returned = buffers.get("out") if copies else None
        if copies or "out" not in buffers:
            (batch, *rest), dtype = tensors["out"]
            buffers["out"] = T.alloc_buffer((copies or batch, *rest), dtype)
        self.x, self.weight, self.scale, self.out = (buffers[name] for name in ("x", "weight", "scale", "out"))
        self.norm, self.bias, self.residual = (buffers.get(name) for name in ("norm", "bias", "residual"))

        self.rows, self.tokens, self.features, self.width, self.groups = (
            T.bind(cast("int32", size)) for size in (leading[0] * leading[1], leading[1], k, width, groups)
        )
        self.words = T.bind(self.groups * WORDS_PER_GROUP)

    def row(self, number: Expr) -> Row:
        """A row of `x`, counted over all sequences."""
        return T.bind(number // self.tokens), T.bind(number % self.tokens)

    def at(self, buffer: Buffer, row: Row, column: Index) -> list[Index]:
        """The indices of a row and a column in `x`, `residual`, `out` or `returned`, 0 in dimensions of size 1."""
        sizes = zip(buffer.shape[:2], row, strict=True)
        return [*(T.int32(0) if isinstance(size, IntImm) and int(size) == 1 else i for size, i in sizes), column]
