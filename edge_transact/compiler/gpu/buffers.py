"""The buffers of a matmul kernel and their sizes."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler import epilogue
from edge_transact.compiler.gpu.rotated import RotatedHeads
from edge_transact.compiler.gpu.source import blocks, call, load_vector
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.vector import Index, cast, tensor


class MatmulBuffers:
    """The kernel's arguments and their sizes (int32).

    Arguments are ``x, weight, scale[, norm][, bias][, residual], out``. With `Matmul.padded`, an int64 ``v_head_dim``
    comes before ``out``; with `Matmul.heads`, the arguments of `RotatedHeads`.

    Args:
        columns: Adjacent columns of the result that a thread computes; a divisor of their number.
        one_row: Batch and tokens are 1.
        features: K, if it is fixed.

    Attributes:
        rows: Rows of `x` and the result: batch times tokens.
        features: Columns of `x`: K.
        width: Columns of the result: N, or N / 2 with a gate; with heads, the pairs of dims of all heads.
        groups: Groups of the packed weight along K.
    """

    def __init__(self, matmul: Matmul, columns: int, *, one_row: bool, features: int | None = None) -> None:
        self.matmul = matmul
        width, v_head_dim = T.int64(), T.int64()
        n = T.int64() if matmul.sections > 1 else width
        k = T.int64() if features is None else T.int64(features)
        leading = (T.int64(1), T.int64(1)) if one_row else (T.int64(), T.int64())
        if matmul.padded:
            heads, head_dim = T.int64(), T.int64()
            k = heads * v_head_dim
        tensors = matmul.tensors(leading, k, n, width)
        if matmul.padded:
            tensors["x"] = ((*leading, heads, head_dim), matmul.dtype)
        if matmul.heads is not None:
            tensors["out"] = (RotatedHeads.shape(matmul.heads, leading), matmul.out_dtype)

        buffers: dict[str, Buffer] = {name: tensor(name, *tensors[name]) for name in matmul.operands}
        self.x, self.weight, self.scale = (buffers[name] for name in ("x", "weight", "scale"))
        self.norm, self.bias, self.residual = (buffers.get(name) for name in ("norm", "bias", "residual"))
        self.heads = RotatedHeads(matmul.heads, self.bias, columns) if matmul.heads is not None else None
        if matmul.padded:
            T.arg("v_head_dim", v_head_dim)
        self.out = tensor("out", *tensors["out"])
        self.rows, self.features = (T.bind(cast("int32", size)) for size in (leading[0] * leading[1], k))
        self.groups = T.bind(blocks(self.features, matmul.quantization.group_size))
        if self.heads is not None:
            self.width, self.columns = self.heads.bind(), T.bind(cast("int32", n))
        else:
            # Written as a multiple of a thread's columns, so that TVM sees the alignment of its loads.
            self.width = T.bind(cast("int32", width) // columns) * columns
            self.columns = self.width * matmul.sections
        if matmul.padded:
            padding = cast("float32", cast("int32", head_dim - v_head_dim))
            self._padding = T.float32(1) / cast("float32", cast("int32", v_head_dim)), padding
            self._row_size = T.bind(cast("int32", heads * head_dim))

    def feature(self, row: Index, k: Expr) -> list[Index]:
        """The indices of a feature in `x`; the next features of the same head follow it."""
        if not self.matmul.padded:
            return [0, 0, row * self.features + k]
        return [0, 0, 0, row * self._row_size + call("int32", "padded_index", k, *self._padding)]

    def at(self, buffer: Buffer, row: Expr, column: Expr) -> list[Index]:
        return [0, 0, row * self.width + column]

    def starts(self, column: Expr) -> list[Expr]:
        """The column of the weight in each of its sections for a column of the result."""
        if self.heads is not None:
            return self.heads.columns(column)
        return [column + section * self.width for section in range(self.matmul.sections)]

    def finish(self, row: Expr, column: Expr, sums: Sequence[Expr]) -> None:
        """Emit the epilogue of a column of the result, and its store."""
        if self.heads is not None:
            self.heads.store(self.out, row, column, sums)
        else:
            epilogue.finish(self, row, column, sums)

    def words(self, word: Expr, column: Expr, lanes: int) -> Expr:
        """A word of `lanes` columns of a KN weight."""
        return load_vector(self.weight, self._kn(word, column), lanes)

    def scales(self, group: Expr, column: Expr, lanes: int) -> Expr:
        """The scale of a group of `lanes` columns of a KN weight."""
        return load_vector(self.scale, self._kn(group, column), lanes)

    def _kn(self, row: Expr, column: Expr) -> list[Index]:
        # The last index holds the whole offset: TVM then knows its alignment.
        return [0, row * self.columns + column]
