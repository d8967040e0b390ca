"""The buffers of a matmul kernel and their sizes."""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.gpu.source import load_vector
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.vector import Index, cast
from edge_transact.quantization import GROUP_SIZE


class MatmulBuffers:
    """The kernel's buffers, ``x, weight, scale[, norm][, bias][, residual], out``, and their sizes (int32).

    Args:
        matmul: What the kernel computes.
        columns: Columns of the result that a thread computes, next to each other; a divisor of their number.
        one_row: Batch and tokens are 1.
        features: K, where all matmuls of the kernel have the same.

    Attributes:
        rows: Rows of `x` and the result: batch times tokens.
        features: Columns of `x`: K.
        width: Columns of the result: N, or N / 2 with a gate.
        groups: Groups of the packed weight along K.
    """

    def __init__(self, matmul: Matmul, columns: int, *, one_row: bool, features: int | None = None) -> None:
        self.matmul = matmul
        width = T.int64()
        k = T.int64() if features is None else T.int64(features)
        leading = (T.int64(1), T.int64(1)) if one_row else (T.int64(), T.int64())
        n = T.int64() if matmul.gated else width
        buffers: dict[str, Buffer] = {
            name: T.match_buffer(T.arg(name, T.handle()), shape, dtype)
            for name, (shape, dtype) in matmul.tensors(leading, k, n, width).items()
        }
        self.x, self.weight, self.scale, self.out = (buffers[name] for name in ("x", "weight", "scale", "out"))
        self.norm, self.bias, self.residual = (buffers.get(name) for name in ("norm", "bias", "residual"))
        self.rows, self.features = (T.bind(cast("int32", size)) for size in (leading[0] * leading[1], k))
        self.groups = T.bind(blocks(self.features, GROUP_SIZE))
        # Written as a multiple of a thread's columns, so that TVM sees how its loads are aligned.
        self.width = T.bind(cast("int32", width) // columns) * columns

    def at(self, row: Expr, column: Expr) -> list[Index]:
        """The indices in `residual` and `out`."""
        return [0, 0, row * self.width + column]

    def words(self, word: Expr, column: Expr, lanes: int) -> Expr:
        """A word of `lanes` columns of a KN weight."""
        return load_vector(self.weight, self._kn(word, column), lanes)

    def scales(self, group: Expr, column: Expr, lanes: int) -> Expr:
        """The scale of a group of `lanes` columns of a KN weight."""
        return load_vector(self.scale, self._kn(group, column), lanes)

    def _kn(self, row: Expr, column: Expr) -> list[Index]:
        # The last index holds the whole offset: TVM then knows its alignment.
        return [0, row * (self.width * self.matmul.sections) + column]


def blocks(size: Expr, block: int) -> Expr:
    """The number of blocks that cover a size."""
    return (size + (block - 1)) // block
