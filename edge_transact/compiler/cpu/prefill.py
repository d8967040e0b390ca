"""A product for many rows: bound by arithmetic.

The packed weights of two vectors of columns are expanded once into a panel that stays in the second-level cache, and
tiles of rows by columns accumulate in registers.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from edge_transact.compiler.cpu.isa import Fp32
from edge_transact.compiler.cpu.operands import Operands, each_group, finish, inverse_rms
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.vector import cast, load, splat, store
from edge_transact.quantization import GROUP_SIZE, WORDS_PER_GROUP

TILE_ROWS = 6
"""Rows of a tile: with two vectors of columns they fill 12 registers."""


def prefill(matmul: Matmul, isa: Fp32, a: Operands) -> None:
    """Emit the product of any number of rows."""
    lanes, tile_rows = isa.lanes, TILE_ROWS
    tiles = T.bind((a.rows + (tile_rows - 1)) // tile_rows)
    units_per_group = isa.steps * WORDS_PER_GROUP
    units = T.alloc_buffer((tiles, a.groups, tile_rows, isa.terms, units_per_group), "int32")
    starts = T.alloc_buffer((tiles, a.groups, tile_rows), "int32") if isa.whole else None
    quanta = T.alloc_buffer((tiles, a.groups, tile_rows), "float32") if isa.whole else None
    with T.parallel(0, tiles) as tile, T.serial(0, tile_rows) as r:
        row = T.bind(T.min(tile * tile_rows + r, a.rows - 1))
        factor = inverse_rms(matmul, a, row)
        shared = T.alloc_buffer((WORDS_PER_GROUP,), "float32", scope="local")
        of_words = T.alloc_buffer((WORDS_PER_GROUP,), "int32", scope="local")

        def pack(group: Any, x: Any) -> None:
            if starts is not None and quanta is not None:
                # As vectors, and read from memory again: TVM's analysis would go through all that they are made of.
                store(shared, splat(isa.quantum(x), WORDS_PER_GROUP), [0])
                T.buffer_store(quanta, shared[0], [tile, group, r])
                x = T.bind(x * splat(T.float32(1) / shared[0], GROUP_SIZE))
                store(of_words, isa.starts(x), [0])
                start = sum((of_words[i] for i in range(1, WORDS_PER_GROUP)), of_words[0])
                T.buffer_store(starts, start, [tile, group, r])
            for term, steps in enumerate(isa.units(x)):
                for step, unit in enumerate(steps):
                    store(units, unit, [tile, group, r, term, step * WORDS_PER_GROUP])

        each_group(a, row, factor, pack)

    # Two vectors of the weight's columns at a time: gate and up of the same columns, or neighbours.
    block_width = lanes if matmul.gated else 2 * lanes
    blocks = T.bind((a.width + (block_width - 1)) // block_width)
    each = [(r, v) for r in range(tile_rows) for v in range(2)]
    with T.parallel(0, blocks) as block:
        isa.prepare()
        column = T.bind(T.min(block * block_width, a.width - block_width))
        panel = T.alloc_buffer((a.groups, units_per_group, 2, lanes), "int32")
        scales = T.alloc_buffer((a.groups, 2, lanes), "float32")
        _expand(matmul, isa, a, [column, column + (a.width if matmul.gated else lanes)], panel, scales)
        parts = T.alloc_buffer((tile_rows, 2, lanes), isa.sum_dtype, scope="local")
        totals = T.alloc_buffer((tile_rows, 2, lanes), "float32", scope="local")
        with T.serial(0, tiles) as tile:
            for r, v in each:
                store(totals, splat(T.float32(0), lanes), [r, v, 0])
            with T.serial(0, a.groups) as group:
                for r, v in each:
                    store(parts, splat(tirx.const(0, isa.sum_dtype), lanes), [r, v, 0])
                for term in range(isa.terms):
                    if term:
                        for r, v in each:
                            store(parts, isa.next_term(load(parts, [r, v, 0], lanes)), [r, v, 0])
                    with T.serial(0, units_per_group) as i:
                        weights = [T.bind(load(panel, [group, i, v, 0], lanes)) for v in range(2)]
                        for r in range(tile_rows):
                            unit = T.bind(splat(units[tile, group, r, term, i], lanes))
                            for v in range(2):
                                part = isa.multiply_add(load(parts, [r, v, 0], lanes), weights[v], unit)
                                store(parts, part, [r, v, 0])
                scale = [T.bind(load(scales, [group, v, 0], lanes)) for v in range(2)]
                for r, v in each:
                    part, factor = load(parts, [r, v, 0], lanes), scale[v]
                    if starts is not None and quanta is not None:
                        part = cast("float32", part + splat(starts[tile, group, r], lanes))
                        factor = factor * splat(quanta[tile, group, r], lanes)
                    store(totals, load(totals, [r, v, 0], lanes) + part * factor, [r, v, 0])
            finished = T.alloc_buffer((tile_rows, 2, lanes), "float32")
            for r, v in each:
                store(finished, load(totals, [r, v, 0], lanes), [r, v, 0])
            with T.serial(0, T.min(tile_rows, a.rows - tile * tile_rows)) as r:
                row = tile * tile_rows + r
                sums = [T.bind(load(finished, [r, v, 0], lanes)) for v in range(2)]
                if matmul.gated:
                    finish(matmul, a, row, column, sums)
                else:
                    for v in range(2):
                        finish(matmul, a, row, column + v * lanes, [sums[v]])


def _expand(matmul: Matmul, isa: Fp32, a: Operands, columns: list[Any], panel: Any, scales: Any) -> None:
    """The units of some vectors of columns into `panel`, their scales, fp32, into `scales`."""
    lanes = isa.lanes
    if matmul.layout == "KN":

        def words_of(word: Any, v: int) -> Any:
            return load(a.weight, [word, columns[v]], lanes)

        with T.serial(0, a.groups) as group:
            for v in range(len(columns)):
                store(scales, cast("float32", load(a.scale, [group, columns[v]], lanes)), [group, v, 0])
    else:
        turned = T.alloc_buffer((a.words, len(columns), lanes), "uint32")
        for v in range(len(columns)):
            with T.serial(0, a.words) as word:
                for lane in range(lanes):
                    T.buffer_store(turned, a.weight[columns[v] + lane, word], [word, v, lane])
            with T.serial(0, a.groups) as group:
                for lane in range(lanes):
                    T.buffer_store(scales, cast("float32", a.scale[columns[v] + lane, group]), [group, v, lane])

        def words_of(word: Any, v: int) -> Any:
            return load(turned, [word, v, 0], lanes)

    with T.serial(0, a.groups) as group, T.serial(0, WORDS_PER_GROUP) as word:
        for v in range(len(columns)):
            words = T.bind(words_of(group * WORDS_PER_GROUP + word, v))
            for step in range(isa.steps):
                store(panel, isa.panel_weights(words, step), [group, step * WORDS_PER_GROUP + word, v, 0])
