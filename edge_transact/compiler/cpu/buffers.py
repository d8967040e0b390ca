"""The buffers of a matmul kernel, and its prologue: RMSNorm, and activations in groups of 32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr, IntImm, Var

from edge_transact.compiler.matmul import Matmul, Rows
from edge_transact.compiler.vector import Index, cast, load, splat, store, sum_lanes

Row: TypeAlias = tuple[Expr, Expr]
"""A row's first two indices: its sequence (or the thread whose copy it is in) and its token."""


class MatmulBuffers:
    """A matmul's buffers and their sizes (int32).

    Args:
        arguments: The kernel's arguments by name. Without ``out`` the result stays inside the kernel.
        rows: The rows of `x`; not ``any`` with `copies`, or if `x` is given.
        given: Results of earlier matmuls of the same kernel that are operands here, by name.
        copies: How many threads have a copy of the result for later matmuls, beside `returned`; 0 if they share it.
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
        self.matmul, self.words_per_group = matmul, matmul.quantization.words_per_group
        n = T.int64()
        width = n // matmul.sections if matmul.gated else n
        k = given["x"].shape[-1] if "x" in given else T.int64()
        tokens = T.int64(1) if rows == "one" else given["x"].shape[1] if "x" in given else T.int64()
        leading = (T.int64() if rows == "any" else T.int64(1), tokens)
        buffers: dict[str, Buffer] = dict(given)
        tensors = matmul.tensors(leading, k, n, width)
        groups = tensors["scale"][0][matmul.layout == "NK"]
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
        self.words = T.bind(self.groups * self.words_per_group)

    def row(self, number: Expr) -> Row:
        """A row of `x`, counted over all sequences."""
        return T.bind(number // self.tokens), T.bind(number % self.tokens)

    def at(self, buffer: Buffer, row: Row, column: Index) -> list[Index]:
        """The indices of a row and a column in `x`, `residual`, `out` or `returned`, 0 in dimensions of size 1."""
        sizes = zip(buffer.shape[:2], row, strict=True)
        return [*(T.int32(0) if isinstance(size, IntImm) and int(size) == 1 else i for size, i in sizes), column]


def for_each_group(
    buffers: MatmulBuffers,
    row: Row,
    groups: tuple[Expr, Expr],
    inverse_rms: Expr | None,
    emit: Callable[[Expr, Expr], None],
) -> None:
    """Call ``emit(group, x)`` for the groups of a row from the first to before the second of `groups`.

    `x` is the group's 32 normalized activations in fp32, zeros beyond K.
    """
    (first, end), size = groups, buffers.matmul.quantization.group_size
    full_groups = T.bind(buffers.features // size)

    def read(index: Expr, lanes: int) -> Expr:
        x = cast("float32", load(buffers.x, buffers.at(buffers.x, row, index), lanes))
        if buffers.norm is None:
            return x
        return x * splat(inverse_rms, lanes) * cast("float32", load(buffers.norm, [index], lanes))

    with T.serial(first, T.min(end, full_groups)) as group:
        emit(group, T.bind(read(group * size, size)))
    with T.serial(T.max(first, full_groups), end) as group:
        x = T.alloc_buffer((size,), "float32")
        store(x, splat(T.float32(0), size), [0])
        with T.serial(0, buffers.features - full_groups * size) as i:
            T.buffer_store(x, read(full_groups * size + i, 1), [i])
        emit(group, T.bind(load(x, [0], size)))


def inverse_rms(buffers: MatmulBuffers, row: Row) -> Expr | None:
    """One over the root mean square of a row; `None` where there is no norm."""
    eps = buffers.matmul.norm_eps
    if eps is None:
        return None
    lanes = 16
    squares = T.alloc_buffer((lanes,), "float32")
    store(squares, splat(T.float32(0), lanes), [0])
    full_vectors = T.bind(buffers.features // lanes)
    with T.serial(0, full_vectors) as i:
        x = T.bind(cast("float32", load(buffers.x, buffers.at(buffers.x, row, i * lanes), lanes)))
        store(squares, load(squares, [0], lanes) + x * x, [0])
    total = T.alloc_buffer((1,), "float32")
    T.buffer_store(total, sum_lanes([load(squares, [0], lanes)]), [0])
    with T.serial(full_vectors * lanes, buffers.features) as i:
        x = T.bind(cast("float32", load(buffers.x, buffers.at(buffers.x, row, i), 1)))
        T.buffer_store(total, total[0] + x * x, [0])
    mean = total[0] / cast("float32", buffers.features)
    return T.bind(T.float32(1) / T.sqrt(mean + T.float32(eps)))
