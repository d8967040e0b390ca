"""Matmuls of many rows, bound by arithmetic: weights are unpacked once into a panel that stays in the L2 cache."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.buffers import MatmulBuffers, for_each_group, inverse_rms
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.epilogue import finish
from edge_transact.compiler.vector import cast, exp, lanes_of, load, shuffle, splat, store

TILE_VECTORS = 2
"""Vectors of columns of a tile and of a panel."""


def prefill(buffers: MatmulBuffers, isa: InstructionSet) -> None:
    if isa.otherwise is None:
        PrefillMatmul(buffers, isa).emit()
        return
    with T.If(isa.is_there()):
        with T.Then():
            PrefillMatmul(buffers, isa).emit()
        with T.Else():
            PrefillMatmul(buffers, isa.otherwise).emit()


class PrefillMatmul:
    """A matmul of many rows.

    Attributes:
        products: Products (`multiply_add_block`) of a block and a group: ``steps * 4 / block_rows``.
        lanes_per_product: int32 lanes of activations of a product: `block_rows` of each of a block's rows.
        activations: Packed, ``[tiles, groups, tile_rows / block_rows, digits, products * lanes_per_product]`` of int32.
        corrections: Zero-point corrections of quantized activations, int32 ``[tiles, groups, tile_rows]``; `None` if
            panels are signed.
        activation_scales: Scales of quantized activations, fp32 ``[tiles, groups, tile_rows]``.
    """

    def __init__(self, buffers: MatmulBuffers, isa: InstructionSet) -> None:
        self.matmul, self.buffers, self.isa = buffers.matmul, buffers, isa
        self.tiles = T.bind((buffers.rows + (isa.tile_rows - 1)) // isa.tile_rows)
        self.products = isa.steps // isa.block_rows * buffers.words_per_group
        self.lanes_per_product = isa.block_rows**2
        rows = (self.tiles, buffers.groups, isa.tile_rows)
        blocks = (self.tiles, buffers.groups, isa.tile_rows // isa.block_rows)
        quantized = isa.quantizer is not None
        self.activations = T.alloc_buffer((*blocks, isa.digits, self.products * self.lanes_per_product), "int32")
        self.corrections = T.alloc_buffer(rows, "int32") if quantized and not isa.signed_panels else None
        self.activation_scales = T.alloc_buffer(rows, "float32") if quantized else None

    def emit(self) -> None:
        self._pack_activations()
        self._multiply()

    def _pack_activations(self) -> None:
        """Pack the activations of all rows; the last tile is filled up with the last row."""
        tile_rows = self.isa.tile_rows
        with T.parallel(0, self.tiles) as tile, T.serial(0, tile_rows) as r:
            row = self.buffers.row(T.bind(T.min(tile * tile_rows + r, self.buffers.rows - 1)))
            for_each_group(
                self.buffers,
                row,
                (T.int32(0), self.buffers.groups),
                inverse_rms(self.buffers, row),
                self._packer(tile, r),
            )

    def _packer(self, tile: Expr, r: Expr) -> Callable[[Expr, Expr], None]:
        isa, words = self.isa, self.buffers.words_per_group
        scale = T.alloc_buffer((words,), "float32")
        corrections = T.alloc_buffer((words,), "int32")

        def pack(group: Expr, x: Expr) -> None:
            if isa.quantizer is not None:
                # Stored and loaded again: TVM's integer analysis would walk through everything they are computed from.
                store(scale, splat(isa.quantizer.scale(x), words), [0])
                T.buffer_store(self.activation_scales, scale[0], [tile, group, r])
                x = T.bind(x * splat(T.float32(1) / scale[0], lanes_of(x)))
            if self.corrections is not None:
                store(corrections, isa.zero_point_correction(x), [0])
                correction = sum((corrections[i] for i in range(1, words)), corrections[0])
                T.buffer_store(self.corrections, correction, [tile, group, r])
            block, row = r // isa.block_rows, r % isa.block_rows
            for digit, vectors in enumerate(isa.pack_for_panel(x)):
                for i, activations in enumerate(vectors):
                    lanes = lanes_of(activations)
                    at = (i * isa.block_rows + row) * lanes
                    store(self.activations, activations, [tile, group, block, digit, at])

        return pack

    def _multiply(self) -> None:
        # The two vectors of a panel are gate and up columns of the same outputs, or neighbours.
        lanes = self.isa.lanes
        columns = lanes if self.matmul.gated else TILE_VECTORS * lanes
        blocks = T.bind((self.buffers.width + (columns - 1)) // columns)
        with T.parallel(0, blocks) as block:
            column = T.bind(T.min(block * columns, self.buffers.width - columns))
            panel = _Panel(
                self.buffers, self.isa, [column, column + (self.buffers.width if self.matmul.gated else lanes)]
            )
            panel.unpack()
            tile = _Tile(self, panel)
            with T.serial(0, self.tiles) as number:
                tile.clear()
                with T.serial(0, self.buffers.groups) as group:
                    tile.accumulate(number, group)
                tile.store(number, column)


class _Panel:
    """The unpacked weights of vectors of columns, int32 ``[groups, products, blocks, lanes]``, with fp32 scales."""

    def __init__(self, buffers: MatmulBuffers, isa: InstructionSet, columns: list[Expr]) -> None:
        self.buffers, self.isa, self.columns = buffers, isa, columns
        shape = (isa.steps // isa.block_rows * buffers.words_per_group, TILE_VECTORS * isa.block_rows, isa.lanes)
        self.weights = T.alloc_buffer((buffers.groups, *shape), "int32")
        self.scales = T.alloc_buffer((buffers.groups, TILE_VECTORS, isa.lanes), "float32")

    def unpack(self) -> None:
        load_words = self._load_kn() if self.buffers.matmul.layout == "KN" else self._load_nk()
        per_group = self.buffers.words_per_group
        with T.serial(0, self.buffers.groups) as group, T.serial(0, per_group) as word:
            for v in range(TILE_VECTORS):
                words = T.bind(load_words(group * per_group + word, v))
                for product, blocks in enumerate(self.isa.unpack_for_panel(words)):
                    for i, weights in enumerate(blocks):
                        at = [group, product * per_group + word, v * self.isa.block_rows + i, 0]
                        store(self.weights, weights, at)

    def _load_kn(self) -> Callable[[Expr, int], Expr]:
        """Load the scales; return a function that loads a word of a vector of columns."""
        buffers, lanes = self.buffers, self.isa.lanes
        with T.serial(0, buffers.groups) as group:
            for v, column in enumerate(self.columns):
                store(self.scales, cast("float32", load(buffers.scale, [group, column], lanes)), [group, v, 0])
        return lambda word, v: load(buffers.weight, [word, self.columns[v]], lanes)

    def _load_nk(self) -> Callable[[Expr, int], Expr]:
        """The same for the transposed layout, through a buffer."""
        buffers, lanes = self.buffers, self.isa.lanes
        transposed = T.alloc_buffer((buffers.words, TILE_VECTORS, lanes), "uint32")
        for v, column in enumerate(self.columns):
            with T.serial(0, buffers.words) as word:
                for lane in range(lanes):
                    T.buffer_store(transposed, buffers.weight[column + lane, word], [word, v, lane])
            with T.serial(0, buffers.groups) as group:
                for lane in range(lanes):
                    T.buffer_store(self.scales, cast("float32", buffers.scale[column + lane, group]), [group, v, lane])
        return lambda word, v: load(transposed, [word, v, 0], lanes)


class _Tile:
    """A tile of rows by two vectors of columns, in registers: the sums of a group, and of all groups."""

    def __init__(self, of: PrefillMatmul, panel: _Panel) -> None:
        self.of, self.isa, self.buffers, self.panel = of, of.isa, of.buffers, panel
        rows, columns = of.isa.tile_rows // of.isa.block_rows, TILE_VECTORS * of.isa.block_rows
        self.accumulators = T.alloc_buffer((rows, columns, of.isa.lanes), of.isa.accumulator_dtype)
        self.totals = T.alloc_buffer((of.isa.tile_rows, TILE_VECTORS, of.isa.lanes), "float32")
        self.blocks = [(r, c) for r in range(rows) for c in range(columns)]
        self.each = [(r, v) for r in range(of.isa.tile_rows) for v in range(TILE_VECTORS)]

    def clear(self) -> None:
        for r, v in self.each:
            store(self.totals, splat(T.float32(0), self.isa.lanes), [r, v, 0])

    def accumulate(self, tile: Expr, group: Expr) -> None:
        lanes, accumulators = self.isa.lanes, self.accumulators
        for r, c in self.blocks:
            store(accumulators, splat(tirx.const(0, self.isa.accumulator_dtype), lanes), [r, c, 0])
        for digit in range(self.isa.digits):
            if digit and self.isa.quantizer is not None:
                for r, c in self.blocks:
                    shifted = self.isa.quantizer.next_digit(load(accumulators, [r, c, 0], lanes))
                    store(accumulators, shifted, [r, c, 0])
            self._multiply_add(tile, group, digit)
        self._add_to_totals(tile, group)

    def _multiply_add(self, tile: Expr, group: Expr, digit: int) -> None:
        isa, lanes, accumulators = self.isa, self.isa.lanes, self.accumulators
        rows, columns = isa.tile_rows // isa.block_rows, TILE_VECTORS * isa.block_rows
        size, together = self.of.lanes_per_product, self.of.products if isa.selects_activations else 1
        with T.serial(0, self.of.products // together) as first:
            loaded = {}
            for i in range(together):
                product = first * together + i
                weights = [T.bind(load(self.panel.weights, [group, product, c, 0], lanes)) for c in range(columns)]
                for r in range(rows):
                    if i == 0:
                        at = [tile, group, r, digit, first * together * size]
                        loaded[r] = load(self.of.activations, at, together * size)
                    activations = loaded[r] if together == 1 else shuffle([loaded[r]], range(i * size, (i + 1) * size))
                    activation = T.bind(splat(activations, lanes // size))
                    for c in range(columns):
                        added = isa.multiply_add_block(load(accumulators, [r, c, 0], lanes), weights[c], activation)
                        store(accumulators, added, [r, c, 0])

    def _add_to_totals(self, tile: Expr, group: Expr) -> None:
        lanes, corrections, activation_scales = self.isa.lanes, self.of.corrections, self.of.activation_scales
        height = self.isa.block_rows
        scales = [T.bind(load(self.panel.scales, [group, v, 0], lanes)) for v in range(TILE_VECTORS)]
        for r, v in self.each:
            blocks = [load(self.accumulators, [r // height, v * height + i, 0], lanes) for i in range(height)]
            products, scale = self.isa.row_of_blocks(blocks, r % height), scales[v]
            if corrections is not None:
                products = products + splat(corrections[tile, group, r], lanes)
            if activation_scales is not None:
                products = cast("float32", products)
                scale = scale * splat(activation_scales[tile, group, r], lanes)
            store(self.totals, load(self.totals, [r, v, 0], lanes) + products * scale, [r, v, 0])

    def store(self, tile: Expr, column: Expr) -> None:
        """Apply the epilogue to those of the tile's rows that exist."""
        lanes, rows = self.isa.lanes, self.isa.tile_rows
        # The totals leave their registers here: which rows exist is known only at run time.
        finished = T.alloc_buffer((rows, TILE_VECTORS, lanes), "float32")
        for r, v in self.each:
            store(finished, load(self.totals, [r, v, 0], lanes), [r, v, 0])
        with T.serial(0, T.min(rows, self.buffers.rows - tile * rows)) as r:
            row = self.buffers.row(tile * rows + r)
            sums = [T.bind(load(finished, [r, v, 0], lanes)) for v in range(TILE_VECTORS)]
            if self.buffers.matmul.gated:
                finish(self.buffers, row, column, sums, exp)
            else:
                for v, vector in enumerate(sums):
                    finish(self.buffers, row, column + v * lanes, [vector], exp)
