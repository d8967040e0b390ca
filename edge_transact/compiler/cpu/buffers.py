"""The buffers of a matmul kernel and their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr, Var

from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.vector import Index, cast
from edge_transact.quantization import GROUP_SIZE, WORDS_PER_GROUP


class MatmulBuffers:
    """A matmul's buffers and their sizes (int32).

    Args:
        matmul: What the kernel computes.
        arguments: The kernel's arguments by name. Without ``out`` the result stays inside the kernel.
        one_row: Batch and tokens are 1.
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
        one_row: bool,
        given: Mapping[str, Buffer] = MappingProxyType({}),
    ) -> None:
        def tensor(name: str, shape: tuple[Index, ...], dtype: str) -> Buffer:
            return given[name] if name in given else T.match_buffer(arguments[name], shape, dtype)

        self.matmul = matmul
        n = T.int64()
        width = n // matmul.sections if matmul.gated else n
        k = given["x"].shape[-1] if "x" in given else T.int64()
        leading = (T.int64(1), T.int64(1)) if one_row else (T.int64(), T.int64())
        groups = (k + (GROUP_SIZE - 1)) // GROUP_SIZE
        self.x = tensor("x", (*leading, k), matmul.dtype)
        packed, scales = (n, groups * WORDS_PER_GROUP), (n, groups)
        if matmul.layout == "KN":
            packed, scales = packed[::-1], scales[::-1]
        self.weight = tensor("weight", packed, "uint32")
        self.scale = tensor("scale", scales, matmul.scale_dtype)
        self.norm = tensor("norm", (k,), matmul.dtype) if matmul.norm_eps is not None else None
        self.bias = tensor("bias", (n,), matmul.dtype) if matmul.bias else None
        self.residual = tensor("residual", (*leading, width), matmul.dtype) if matmul.residual else None
        out = (*leading, width)
        self.out = tensor("out", out, matmul.out_dtype) if "out" in arguments else T.alloc_buffer(out, matmul.out_dtype)

        self.rows, self.tokens, self.features, self.width, self.groups = (
            T.bind(cast("int32", size)) for size in (leading[0] * leading[1], leading[1], k, width, groups)
        )
        self.words = T.bind(self.groups * WORDS_PER_GROUP)

    def at(self, row: Expr, column: Index) -> list[Index]:
        """The indices of a row and a column in `x`, `residual` and `out`."""
        return [row // self.tokens, row % self.tokens, column]
