"""W4A16 matmuls on phones' GPUs: ``y = x W`` with packed weights, for one row (decode) and for any number of rows.

Tiles and work groups are those of dlight's schedules for Adreno. Unlike dlight's kernels, these take the widths as
arguments, so layers of all widths share them. A library then has a handful of kernels instead of one per width, which
matters because a phone's driver compiles them at load time. The columns of a thread are either all inside the matrix
or all outside, so a ragged width costs one comparison per thread.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Buffer, Expr
from tvm.tirx.script.builder import ir as builder

from edge_transact.compiler.epilogue import finish
from edge_transact.compiler.matmul import Matmul, is_one_row
from edge_transact.compiler.vector import cast, load, splat, store
from edge_transact.quantization import GROUP_SIZE, VALUES_PER_WORD, WORDS_PER_GROUP, ZERO_POINT

DECODE_COLUMNS, DECODE_PARTS = 64, 4
"""Columns of a work group in decode, one per thread, and the threads that share a column's groups of weights."""

PREFILL_THREADS, PREFILL_TILES, TILE_ROWS = 32, 4, 16
"""Threads of a work group in prefill, across the columns and across the tiles of rows, and rows of a tile."""


class GPUKernels:
    """The GPU's kernels, for `passes.fuse_matmuls.FuseMatmuls`."""

    take_norm = False
    chain = None

    def embed(self, scale_dtype: str) -> None:
        """TVM's own kernel reads the embedding's rows."""

    def select(self, kind: Matmul, x: list[Expr], width: int) -> tuple[Hashable, Callable[[], tirx.PrimFunc]] | None:
        """One kernel for each kind of matmul of one row; for more rows, one for each number of columns per thread."""
        batch, _, features = x
        if not isinstance(batch, tirx.IntImm) or int(batch) != 1:
            return None
        if kind.layout != "KN" or int(features) % GROUP_SIZE or width % 2:
            return None
        if is_one_row(x):
            return (kind, "decode"), lambda: decode(kind)
        columns = columns_a_thread(kind, width)
        return (kind, columns), lambda: prefill(kind, columns)


def columns_a_thread(matmul: Matmul, width: int) -> int:
    """Columns of the result per thread of prefill: the largest of 8, 4 and 2 that divides the width evenly."""
    most = 8 // matmul.sections
    return next((columns for columns in (8, 4) if columns <= most and width % (PREFILL_THREADS * columns) == 0), 2)


def decode(matmul: Matmul) -> tirx.PrimFunc:
    """The kernel for one row: ``x [1, 1, K], weight [4 G, N], scale [G, N][, bias][, residual], out [1, 1, width]``."""

    def body(a: _Arguments) -> None:
        with T.thread_binding(_blocks(a.width, DECODE_COLUMNS), thread="blockIdx.x") as block:
            shape = (matmul.sections, DECODE_PARTS, DECODE_COLUMNS)
            shared = T.alloc_buffer(shape, a.sum_dtype, scope="shared")
            with (
                T.thread_binding(DECODE_COLUMNS, thread="threadIdx.x") as thread,
                T.thread_binding(DECODE_PARTS, thread="threadIdx.y") as part,
            ):
                # Threads beyond the last column recompute it, because every thread must reach the barrier.
                column = T.bind(T.min(block * DECODE_COLUMNS + thread, a.width - 1))
                sums = T.alloc_buffer((matmul.sections, VALUES_PER_WORD), a.sum_dtype, scope="local")
                for section in range(matmul.sections):
                    store(sums, a.zero(VALUES_PER_WORD), [section, 0])
                with T.serial(0, _blocks(a.groups - part, DECODE_PARTS)) as turn:
                    group = T.bind(turn * DECODE_PARTS + part)
                    scales = [
                        load(a.scale, a.packed(group, column + section * a.width), 1)
                        for section in range(matmul.sections)
                    ]
                    scales = [T.bind(scale) for scale in scales]
                    with T.serial(0, WORDS_PER_GROUP) as word:
                        index = T.bind(group * WORDS_PER_GROUP + word)
                        x = T.bind(cast(a.sum_dtype, load(a.x, [0, 0, index * VALUES_PER_WORD], VALUES_PER_WORD)))
                        shifts = cast("uint32", T.ramp(T.int32(0), 4, VALUES_PER_WORD))
                        for section, scale in enumerate(scales):
                            packed = T.bind(load(a.weight, a.packed(index, column + section * a.width), 1))
                            weights = a.weights(splat(packed, VALUES_PER_WORD), shifts, splat(scale, VALUES_PER_WORD))
                            store(sums, load(sums, [section, 0], VALUES_PER_WORD) + x * weights, [section, 0])
                for section in range(matmul.sections):
                    total = sums[section, 0]
                    for lane in range(1, VALUES_PER_WORD):
                        total = total + sums[section, lane]
                    T.buffer_store(shared, total, [section, part, thread])
            with (
                T.thread_binding(DECODE_COLUMNS, thread="threadIdx.x") as thread,
                T.thread_binding(DECODE_PARTS, thread="threadIdx.y") as part,
            ):
                column = T.bind(block * DECODE_COLUMNS + thread)
                with T.If(T.And(part == 0, column < a.width)), T.Then():
                    totals = []
                    for section in range(matmul.sections):
                        total = shared[section, 0, thread]
                        for other in range(1, DECODE_PARTS):
                            total = total + shared[section, other, thread]
                        totals.append(total)
                    finish(a, T.int32(0), column, totals)

    return _kernel(matmul, body, 1, one_row=True)


def prefill(matmul: Matmul, columns: int) -> tirx.PrimFunc:
    """The kernel for n rows: ``x [1, n, K], weight [4 G, N], scale [G, N][, bias][, residual], out [1, n, width]``.

    Args:
        matmul: What to compute.
        columns: Columns of the result per thread; a divisor of its width.
    """

    def body(a: _Arguments) -> None:
        tiles = T.bind(_blocks(a.rows, TILE_ROWS))
        # The rows of a tile are adjacent, so that one load reads a feature of all of them.
        tiled = T.alloc_buffer((tiles, a.features, TILE_ROWS), matmul.dtype)
        with (
            T.thread_binding(_blocks(tiles, PREFILL_TILES), thread="blockIdx.y") as block_y,
            T.thread_binding(_blocks(a.features, PREFILL_THREADS), thread="blockIdx.x") as block_x,
            T.thread_binding(PREFILL_TILES, thread="threadIdx.y") as thread_y,
            T.thread_binding(PREFILL_THREADS, thread="threadIdx.x") as thread_x,
        ):
            tile = T.bind(block_y * PREFILL_TILES + thread_y)
            feature = T.bind(block_x * PREFILL_THREADS + thread_x)
            with T.If(tile < tiles), T.Then(), T.unroll(0, TILE_ROWS) as r:
                # Rows beyond the last repeat it; their results are not stored.
                row = T.min(tile * TILE_ROWS + r, a.rows - 1)
                T.buffer_store(tiled, a.x[0, row, feature], [tile, feature, r])
        with (
            T.thread_binding(_blocks(tiles, PREFILL_TILES), thread="blockIdx.y") as block_y,
            T.thread_binding(_blocks(a.width, PREFILL_THREADS * columns), thread="blockIdx.x") as block_x,
            T.thread_binding(PREFILL_TILES, thread="threadIdx.y") as thread_y,
            T.thread_binding(PREFILL_THREADS, thread="threadIdx.x") as thread_x,
        ):
            tile = T.bind(block_y * PREFILL_TILES + thread_y)
            column = T.bind((block_x * PREFILL_THREADS + thread_x) * columns)
            with T.If(T.And(tile < tiles, column < a.width)), T.Then():
                _tile(matmul, a, tiled, tile, column, columns)

    return _kernel(matmul, body, columns, one_row=False)


def _tile(matmul: Matmul, a: _Arguments, tiled: Buffer, tile: Expr, column: Expr, columns: int) -> None:
    """Emit the work of one thread of prefill: a tile of rows, `columns` columns of each section."""
    sections = range(matmul.sections)
    sums = T.alloc_buffer((matmul.sections, TILE_ROWS, columns), a.sum_dtype, scope="local")
    weights = T.alloc_buffer((matmul.sections, columns), a.sum_dtype, scope="local")
    x = T.alloc_buffer((TILE_ROWS,), matmul.dtype, scope="local")
    with T.unroll(0, TILE_ROWS) as r:
        for section in sections:
            store(sums, a.zero(columns), [section, r, 0])
    with T.serial(0, a.groups) as group:
        scales = [T.bind(load(a.scale, a.packed(group, column + section * a.width), columns)) for section in sections]
        with T.serial(0, WORDS_PER_GROUP) as word:
            index = T.bind(group * WORDS_PER_GROUP + word)
            packed = [
                T.bind(load(a.weight, a.packed(index, column + section * a.width), columns)) for section in sections
            ]
            with T.unroll(0, VALUES_PER_WORD) as value:
                store(x, load(tiled, [tile, index * VALUES_PER_WORD + value, 0], TILE_ROWS), [0])
                shift = splat(cast("uint32", 4 * value), columns)
                for section in sections:
                    store(weights, a.weights(packed[section], shift, scales[section]), [section, 0])
                with T.unroll(0, TILE_ROWS) as r:
                    for section in sections:
                        product = splat(cast(a.sum_dtype, x[r]), columns) * load(weights, [section, 0], columns)
                        store(sums, load(sums, [section, r, 0], columns) + product, [section, r, 0])
    with T.unroll(0, TILE_ROWS) as r:
        row = T.bind(tile * TILE_ROWS + r)
        with T.If(row < a.rows), T.Then():
            finish(a, row, column, [load(sums, [section, r, 0], columns) for section in sections])


class _Arguments:
    """The kernel's buffers, ``x, weight, scale[, bias][, residual], out``, and their sizes (int32).

    Attributes:
        rows: Rows of `x` and the result: n.
        features: Columns of `x`: K.
        width: Columns of the result: N, or N / 2 with a gate.
        groups: Groups of the packed weight along K.
        sum_dtype: The dtype of sums, which is the result's.
    """

    def __init__(self, matmul: Matmul, columns: int, *, one_row: bool) -> None:
        def argument(name: str, shape: tuple[Expr, ...], dtype: str) -> Buffer:
            return T.match_buffer(T.arg(name, T.handle()), shape, dtype)

        self.matmul, self.sum_dtype = matmul, matmul.out_dtype
        one, k, width = T.int64(1), T.int64(), T.int64()
        rows = one if one_row else T.int64()
        self.x = argument("x", (one, rows, k), matmul.dtype)
        n = T.int64() if matmul.gated else width
        groups = k // GROUP_SIZE
        self.weight = argument("weight", (groups * WORDS_PER_GROUP, n), "uint32")
        self.scale = argument("scale", (groups, n), matmul.scale_dtype)
        self.bias = argument("bias", (n,), matmul.dtype) if matmul.bias else None
        self.residual = argument("residual", (one, rows, width), matmul.dtype) if matmul.residual else None
        self.out = argument("out", (one, rows, width), matmul.out_dtype)
        self.rows, self.features, self.groups = (T.bind(cast("int32", size)) for size in (rows, k, groups))
        # Written as a multiple of a thread's columns: TVM loads vectors only where it can prove their alignment.
        self.width = T.bind(cast("int32", width) // columns) * columns

    def packed(self, row: Expr, column: Expr) -> list[Expr]:
        """The indices in `weight` and `scale`. The last one holds the whole offset, so that TVM sees its alignment."""
        return [0, row * (self.width * self.matmul.sections) + column]

    def at(self, row: Expr, column: Expr) -> list[Expr]:
        """The indices in `residual` and `out`, as in `packed`."""
        return [0, 0, row * self.width + column]

    def zero(self, lanes: int) -> Expr:
        """Zeros to start sums with."""
        return splat(cast(self.sum_dtype, T.float32(0)), lanes)

    def weights(self, packed: Expr, shift: Expr, scale: Expr) -> Expr:
        """The dequantized weight whose nibble starts at bit `shift` of each word, lane by lane."""
        lanes = int(packed.ty.dtype.lanes)
        nibbles = T.bitwise_and(T.shift_right(packed, shift), splat(T.uint32(15), lanes))
        dtype = self.matmul.scale_dtype
        signed = cast(dtype, nibbles) - splat(cast(dtype, T.float32(ZERO_POINT)), lanes)
        return cast(self.sum_dtype, signed * scale)


def _kernel(matmul: Matmul, body: Callable[[_Arguments], None], columns: int, *, one_row: bool) -> tirx.PrimFunc:
    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        T.func_name("w4_linear")
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        body(_Arguments(matmul, columns, one_row=one_row))
    return ib.get()


def _blocks(size: Expr, block: int) -> Expr:
    """The number of blocks that cover a size."""
    return (size + (block - 1)) // block
