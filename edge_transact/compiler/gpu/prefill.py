"""Matmuls of any number of rows on GPUs: a thread computes one column of a tile of rows."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.gpu.buffers import MatmulBuffers
from edge_transact.compiler.gpu.decode import UNIT
from edge_transact.compiler.gpu.source import C_NAMES, LANES, address, blocks, call, wait
from edge_transact.compiler.lowering import SCHEDULED
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.vector import cast, kernel_body, load, splat, store

TILES, TILE_ROWS = 4, 16
"""Threads of a work group across tiles, and rows of a tile."""


def prefill(matmul: Matmul) -> tirx.PrimFunc:
    """The kernel for any number of rows and any K.

    Arguments: ``x [batch, tokens, K], weight, scale[, bias][, residual], out [batch, tokens, width]``.
    With a gate, half of the threads compute columns of the gate, and each finishes every other row of a column.
    """
    threads = matmul.quantization.group_size  # across columns; each loads a feature of a tile
    columns = threads // matmul.sections
    with kernel_body(SCHEDULED) as ib:
        a = MatmulBuffers(matmul, 1, one_row=False)
        with (
            T.thread_binding(blocks(a.rows, TILES * TILE_ROWS), thread="blockIdx.y") as block_y,
            T.thread_binding(blocks(a.width, columns), thread="blockIdx.x") as block_x,
        ):
            # The rows of a tile lie next to each other, so that one load reads a feature of all of them.
            tiles = T.alloc_buffer((TILES, threads, TILE_ROWS), matmul.dtype, scope="shared")
            if matmul.sections > 1:
                halves = T.alloc_buffer((TILES, threads, TILE_ROWS), "float32", scope="shared")
            with (
                T.thread_binding(TILES, thread="threadIdx.y") as y,
                T.thread_binding(threads, thread="threadIdx.x") as x,
            ):
                first_row = T.bind((block_y * TILES + y) * TILE_ROWS)
                section = x // columns
                column = T.bind(block_x * columns + x % columns)
                # Threads beyond the last column or row repeat it, because all must reach the barriers.
                starts = a.starts(T.min(column, a.width - 1))
                weight = starts[0] if len(starts) == 1 else T.bind(T.Select(section == 0, starts[0], starts[1]))
                sums = T.alloc_buffer((TILE_ROWS,), "float32", scope="local")
                store(sums, splat(T.float32(0), TILE_ROWS), [0])
                with T.serial(0, a.groups) as group:
                    feature = T.bind(group * threads + x)
                    wait()
                    for r in range(TILE_ROWS):
                        index = a.feature(T.min(first_row + r, a.rows - 1), T.min(feature, a.features - 1))
                        zero = cast(matmul.dtype, T.float32(0))
                        T.buffer_store(tiles, T.Select(feature < a.features, a.x[tuple(index)], zero), [y, x, r])
                    wait()
                    _add_group(a, tiles, sums, y, group, weight)
                if matmul.sections == 1:
                    for r in range(TILE_ROWS):
                        row = T.bind(first_row + r)
                        with T.If(T.And(row < a.rows, column < a.width)), T.Then():
                            a.finish(row, column, [sums[r] * T.float32(UNIT)])
                else:
                    # TVM may give both arrays the same memory.
                    wait()
                    for r in range(TILE_ROWS):
                        T.buffer_store(halves, sums[r] * T.float32(UNIT), [y, x, r])
                    wait()
                    with T.serial(0, TILE_ROWS // 2) as turn:
                        r = T.bind(turn * 2 + section)
                        row = T.bind(first_row + r)
                        with T.If(T.And(row < a.rows, column < a.width)), T.Then():
                            pair = [halves[y, x % columns + half * columns, r] for half in range(2)]
                            a.finish(row, column, pair)
    return ib.get()


def _add_group(a: MatmulBuffers, tiles: Buffer, sums: Buffer, tile: Expr, group: Expr, column: Expr) -> None:
    """Emit the products of a tile with 32 features of a column of the weight."""
    per_group = a.matmul.quantization.words_per_group
    dtype, name = a.matmul.dtype, f"w4_tile_{C_NAMES[a.matmul.dtype]}{TILE_ROWS}"
    if a.matmul.layout == "KN":
        words = [a.words(group * per_group + word, column, 1) for word in range(per_group)]
        scale = a.scales(group, column, 1)
    else:
        # Word by word: with all four at hand, Mesa's compiler loads so many features ahead that registers spill.
        first = (column * a.groups + group) * per_group
        words = [T.bind(a.weight[0, first + word]) for word in range(per_group)]
        scale = T.bind(a.scale[0, column * a.groups + group])
    products = splat(cast(dtype, T.float32(0)), TILE_ROWS)
    for word, codes in enumerate(words):
        products = call(f"{dtype}x{TILE_ROWS}", name, address(tiles, [tile, word * LANES, 0]), codes, products)
    total = cast("float32", products) * splat(cast("float32", scale), TILE_ROWS)
    store(sums, load(sums, [0], TILE_ROWS) + total, [0])
