"""The buffers of a matmul kernel and their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr, Var

from edge_transact.compiler.matmul import Matmul, Rows
from edge_transact.compiler.vector import Index, cast
from edge_transact.quantization import GROUP_SIZE, WORDS_PER_GROUP


class MatmulBuffers:
    """A matmul's buffers and their sizes (int32).

    Args:
        matmul: What the kernel computes.
        arguments: The kernel's arguments by name. Without ``out`` the result stays inside the kernel.
        rows: The rows of `x`.
        given: Results of earlier matmuls of the same kernel that are operands here, by name.

    Attributes:
        x, weight, scale, norm, bias, residual, out: The buffers; `None` where the matmul has none.
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
    ) -> None:
        self.matmul = matmul
        n = T.int64()
        width = n // matmul.sections if matmul.gated else n
        k = given["x"].shape[-1] if "x" in given else T.int64()
        leading = (T.int64() if rows == "any" else T.int64(1), T.int64(1) if rows == "one" else T.int64())
        groups = (k + (GROUP_SIZE - 1)) // GROUP_SIZE
        buffers: dict[str, Buffer] = dict(given)
        for name, (shape, dtype) in matmul.tensors(leading, k, n, width).items():
            if name in arguments:
                buffers[name] = T.match_buffer(arguments[name], shape, dtype)
            elif name not in given:  # the result, which stays inside the kernel
                buffers[name] = T.alloc_buffer(shape, dtype)
        self.x, self.weight, self.scale, self.out = (buffers[name] for name in ("x", "weight", "scale", "out"))
        self.norm, self.bias, self.residual = (buffers.get(name) for name in ("norm", "bias", "residual"))

        self.rows, self.tokens, self.features, self.width, self.groups = (
            T.bind(cast("int32", size)) for size in (leading[0] * leading[1], leading[1], k, width, groups)
        )
        self.words = T.bind(self.groups * WORDS_PER_GROUP)

    def at(self, row: Expr, column: Index) -> list[Index]:
        """The indices of a row and a column in `x`, `residual` and `out`."""
        return [row // self.tokens, row % self.tokens, column]
