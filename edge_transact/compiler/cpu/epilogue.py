"""What matmul kernels do after they multiply: bias, gate, residual and the store."""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.buffers import MatmulBuffers
from edge_transact.compiler.vector import Index, cast, exp, lanes_of, load, splat, store


def finish(buffers: MatmulBuffers, row: Index, column: Expr, sums: list[Expr]) -> None:
    """Apply bias, gate and residual to one vector of columns per section, and store the result."""
    matmul, lanes = buffers.matmul, lanes_of(sums[0])
    if buffers.bias is not None:
        sums = [
            y + cast("float32", load(buffers.bias, [column + section * buffers.width], lanes))
            for section, y in enumerate(sums)
        ]
    y = sums[0]
    if matmul.gated:
        gate = T.bind(sums[0])
        one = splat(T.float32(1), lanes)
        y = gate / (one + exp(splat(T.float32(0), lanes) - gate)) * sums[1]
    if buffers.residual is not None:
        y = y + cast("float32", load(buffers.residual, buffers.at(row, column), lanes))
    store(buffers.out, cast(matmul.out_dtype, y), buffers.at(row, column))
