"""The epilogue of a matmul kernel, on every device: bias, gate, residual, cast and store."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.vector import cast, lanes_of, load, scalar_dtype, splat, store

RowT = TypeVar("RowT", contravariant=True)
"""How a kernel's buffers name a row."""


class EpilogueBuffers(Protocol[RowT]):
    """The part of a kernel's buffers that the epilogue uses: `bias` is ``[N]``, `residual` has the result's shape."""

    matmul: Matmul
    bias: Buffer | None
    residual: Buffer | None
    out: Buffer
    width: Expr

    def at(self, buffer: Buffer, row: RowT, column: Expr) -> list[Expr]:
        """The indices of a row and a column in `residual` or `out`."""


GELU_CUBE = 0.044715
"""Of the tanh approximation (Hendrycks and Gimpel, Gaussian Error Linear Units, section 2)."""


def _slope(gate: Expr, matmul: Matmul, lanes: int) -> Expr:
    """The z by which an activation is ``gate * sigmoid(z)``: SiLU's is the gate itself, that of GELU a cubic."""
    if matmul.activation == "silu":
        return gate
    scale = 2 * math.sqrt(2 / math.pi)
    square = splat(T.float32(scale), lanes) + splat(T.float32(scale * GELU_CUBE), lanes) * gate * gate
    return T.bind(gate * square)


def finish(
    buffers: EpilogueBuffers[RowT],
    row: RowT,
    column: Expr,
    sums: Sequence[Expr],
    exp: Callable[[Expr], Expr] = T.exp,
) -> None:
    """Emit the epilogue of neighbouring columns of a row, from `column` on.

    `sums` has one vector of columns for each section of the weight, in the dtype that the epilogue computes in; `exp`
    is the device's exponential of fp32 vectors.
    """
    dtype, lanes = scalar_dtype(sums[0]), lanes_of(sums[0])
    if buffers.bias is not None:
        sums = [
            y + cast(dtype, load(buffers.bias, [column + section * buffers.width], lanes))
            for section, y in enumerate(sums)
        ]
    y = sums[0]
    if buffers.matmul.gated:
        gate = T.bind(cast("float32", sums[0]))
        one = splat(T.float32(1), lanes)
        y = cast(dtype, gate / (one + exp(splat(T.float32(0), lanes) - _slope(gate, buffers.matmul, lanes)))) * sums[1]
    if buffers.residual is not None:
        y = y + cast(dtype, load(buffers.residual, buffers.at(buffers.residual, row, column), lanes))
    store(buffers.out, cast(buffers.matmul.out_dtype, y), buffers.at(buffers.out, row, column))
