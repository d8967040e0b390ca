"""The prologue of matmul kernels: RMSNorm, and activations in groups of 32."""

from __future__ import annotations

from collections.abc import Callable

from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.buffers import MatmulBuffers, Row
from edge_transact.compiler.vector import cast, load, splat, store, sum_lanes
from edge_transact.quantization import GROUP_SIZE


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
    first, end = groups
    full_groups = T.bind(buffers.features // GROUP_SIZE)

    def read(index: Expr, lanes: int) -> Expr:
        x = cast("float32", load(buffers.x, buffers.at(buffers.x, row, index), lanes))
        if buffers.norm is None:
            return x
        return x * splat(inverse_rms, lanes) * cast("float32", load(buffers.norm, [index], lanes))

    with T.serial(first, T.min(end, full_groups)) as group:
        emit(group, T.bind(read(group * GROUP_SIZE, GROUP_SIZE)))
    with T.serial(T.max(first, full_groups), end) as group:
        x = T.alloc_buffer((GROUP_SIZE,), "float32")
        store(x, splat(T.float32(0), GROUP_SIZE), [0])
        with T.serial(0, buffers.features - full_groups * GROUP_SIZE) as i:
            T.buffer_store(x, read(full_groups * GROUP_SIZE + i, 1), [i])
        emit(group, T.bind(load(x, [0], GROUP_SIZE)))


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
