"""W4A16 products on CPUs: ``y = x W`` with packed weights, for one row (decode) and for any number of rows (prefill).

Decode is bound by memory: each thread streams its own columns of the packed weights once, with wide loads, asks for
those to come beforehand, and keeps everything else in registers and the first-level cache; it makes its units of the
activations itself, which is faster than to wait for another's. Prefill is bound by arithmetic: the packed weights of
two vectors of columns are expanded once into a panel that stays in the second-level cache, and tiles of rows by columns
accumulate in registers. What surrounds a product in a LLaMA, RMSNorm before it, bias, residual, SiLU gate after it, is
done in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as builder

from edge_transact.engine.cpu.isa import Fp32
from edge_transact.engine.lowering import PLAIN_LOOPS
from edge_transact.engine.product import Linear
from edge_transact.engine.vector import (
    LINE_BYTES,
    cast,
    exp,
    lanes_of,
    load,
    prefetch,
    shuffle,
    splat,
    store,
    sum_lanes,
)
from edge_transact.quantization import GROUP_SIZE, VALUES_PER_WORD, WORDS_PER_GROUP, ZERO_POINT


class _Arguments:
    """The kernel's buffers, ``x, weight, scale[, norm][, bias][, residual], out``, and their sizes (int32).

    Attributes:
        rows, features, width: Of the result and `x`: n, K, and N or N / 2.
        groups, words: Along K, in the packed weight.
    """

    def __init__(self, linear: Linear, one_row: bool) -> None:
        def argument(name: str, shape: tuple[Any, ...], dtype: str) -> Any:
            return T.match_buffer(T.arg(name, T.handle()), shape, dtype)

        k, width = T.int64(), T.int64()
        leading = (T.int64(1), T.int64(1)) if one_row else (T.int64(), T.int64())
        groups = (k + (GROUP_SIZE - 1)) // GROUP_SIZE
        self.x = argument("x", (*leading, k), linear.dtype)
        n = T.int64() if linear.gated else width
        packed, scales = (n, groups * WORDS_PER_GROUP), (n, groups)
        if linear.layout == "KN":
            packed, scales = packed[::-1], scales[::-1]
        self.weight = argument("weight", packed, "uint32")
        self.scale = argument("scale", scales, linear.scale_dtype)
        self.norm = argument("norm", (k,), linear.dtype) if linear.norm_eps is not None else None
        self.bias = argument("bias", (n,), linear.dtype) if linear.bias else None
        self.residual = argument("residual", (*leading, width), linear.dtype) if linear.residual else None
        self.out = argument("out", (*leading, width), linear.out_dtype)

        self.rows, self.tokens, self.features, self.width, self.groups = (
            T.bind(cast("int32", size)) for size in (leading[0] * leading[1], leading[1], k, width, groups)
        )
        self.words = T.bind(self.groups * WORDS_PER_GROUP)

    def at(self, row: Any, column: Any) -> list[Any]:
        """The indices of a row and a column in `x`, `residual` and `out`."""
        return [row // self.tokens, row % self.tokens, column]


def kernel(linear: Linear, isa: Fp32, threads: int, *, one_row: bool) -> tirx.PrimFunc:
    """The product as a PrimFunc.

    Of ``x [batch, tokens, K], weight, scale[, norm][, bias][, residual], out [batch, tokens, width]``.

    Args:
        linear: What to compute.
        isa: With which instructions.
        threads: How many parts decode is cut into.
        one_row: Batch and tokens are 1: decode.
    """
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            T.func_name("w4_linear")
            T.func_attr(PLAIN_LOOPS)
            arguments = _Arguments(linear, one_row)
            if not one_row:
                _prefill(linear, isa, arguments)
            elif linear.layout == "KN":
                _decode_kn(linear, isa, threads, arguments)
            else:
                _decode_nk(linear, isa, threads, arguments)
    return ib.get()


DECODE_COLUMNS = 16
"""Columns of a KN weight that decode takes at once: vectors of fewer share what they load of the activations."""


HEAD_START_BYTES = 32 << 10
"""What the calling thread of a decode kernel reads more than the others, which begin a microsecond later."""


def supports(width: int, isa: Fp32, *, gated: bool) -> bool:
    """Whether a matrix is large enough for the kernels: at least as many columns of the result as a tile has."""
    return width >= max(DECODE_COLUMNS, isa.lanes if gated else 2 * isa.lanes)


def embed(scale_dtype: str) -> tirx.PrimFunc:
    """Rows of a packed NK matrix: ``ids [n], weight [rows, 4 G], scale [rows, G]`` to ``[n, K]``."""
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            T.func_name("w4_embed")
            T.func_attr(PLAIN_LOOPS)
            n, rows, features = T.int64(), T.int64(), T.int64()
            groups = (features + (GROUP_SIZE - 1)) // GROUP_SIZE
            ids = T.match_buffer(T.arg("ids", T.handle()), (n,), "int32")
            weight_handle, scale_handle = T.arg("weight", T.handle()), T.arg("scale", T.handle())
            out = T.match_buffer(T.arg("out", T.handle()), (n, features), scale_dtype)
            weight = T.match_buffer(weight_handle, (rows, groups * WORDS_PER_GROUP), "uint32")
            scale = T.match_buffer(scale_handle, (rows, groups), scale_dtype)

            def values(row: Any, word: Any, shifts: Any) -> Any:
                lanes = lanes_of(shifts)
                nibbles = T.bitwise_and(
                    T.shift_right(splat(weight[row, word], lanes), shifts), splat(T.uint32(15), lanes)
                )
                signed = cast("float32", cast("int32", nibbles) - splat(T.int32(ZERO_POINT), lanes))
                return cast(scale_dtype, signed * splat(cast("float32", scale[row, word // WORDS_PER_GROUP]), lanes))

            with T.serial(0, n) as i:
                row = T.bind(ids[i])
                with T.serial(0, features // VALUES_PER_WORD) as word:
                    shifts = cast("uint32", T.ramp(T.int32(0), 4, VALUES_PER_WORD))
                    store(out, values(row, word, shifts), [i, word * VALUES_PER_WORD])
                with T.serial(features // VALUES_PER_WORD * VALUES_PER_WORD, features) as k:
                    shift = cast("uint32", k % VALUES_PER_WORD * 4)
                    T.buffer_store(out, values(row, k // VALUES_PER_WORD, shift), [i, k])
    return ib.get()


def _each_group(a: _Arguments, row: Any, inverse_rms: Any, emit: Callable[[Any, Any], None]) -> None:
    """Call ``emit(group, x)`` for all groups of a row, `x` its 32 activations in fp32, normalized; zero beyond K."""
    whole = T.bind(a.features // GROUP_SIZE)

    def read(index: Any, lanes: int) -> Any:
        x = cast("float32", load(a.x, a.at(row, index), lanes))
        if a.norm is None:
            return x
        return x * splat(inverse_rms, lanes) * cast("float32", load(a.norm, [index], lanes))

    with T.serial(0, whole) as group:
        emit(group, T.bind(read(group * GROUP_SIZE, GROUP_SIZE)))
    with T.serial(whole, a.groups) as group:
        x = T.alloc_buffer((GROUP_SIZE,), "float32", scope="local")
        store(x, splat(T.float32(0), GROUP_SIZE), [0])
        with T.serial(0, a.features - whole * GROUP_SIZE) as i:
            T.buffer_store(x, read(whole * GROUP_SIZE + i, 1), [i])
        emit(group, T.bind(load(x, [0], GROUP_SIZE)))


def _inverse_rms(linear: Linear, a: _Arguments, row: Any) -> Any:
    """One over the root mean square of a row, or nothing where there is no norm."""
    if linear.norm_eps is None:
        return None
    lanes = 16
    squares = T.alloc_buffer((lanes,), "float32", scope="local")
    store(squares, splat(T.float32(0), lanes), [0])
    whole = T.bind(a.features // lanes)
    with T.serial(0, whole) as i:
        x = T.bind(cast("float32", load(a.x, a.at(row, i * lanes), lanes)))
        store(squares, load(squares, [0], lanes) + x * x, [0])
    total = T.alloc_buffer((1,), "float32", scope="local")
    T.buffer_store(total, sum_lanes([load(squares, [0], lanes)]), [0])
    with T.serial(whole * lanes, a.features) as i:
        x = T.bind(cast("float32", load(a.x, a.at(row, i), 1)))
        T.buffer_store(total, total[0] + x * x, [0])
    mean = total[0] / cast("float32", a.features)
    return T.bind(T.float32(1) / T.sqrt(mean + T.float32(linear.norm_eps)))


def _pack(linear: Linear, isa: Fp32, a: _Arguments, words: Any, put: Callable[[Any, int, int, Any], None]) -> list[Any]:
    """Units of the one row's activations: ``put(group, term, step, unit)`` is called for each of a group.

    Returns:
        The words' starts and quanta, ``[words]`` with room for more words than there are, each or nothing.
    """
    starts = None if isa.centered else T.alloc_buffer((words,), isa.sum_dtype)
    quanta = T.alloc_buffer((words,), "float32") if isa.whole else None

    def pack(group: Any, x: Any) -> None:
        word = group * WORDS_PER_GROUP
        if quanta is not None:
            store(quanta, splat(isa.quantum(x), WORDS_PER_GROUP), [word])
            # Read from memory again: TVM's analysis of whole numbers would go through all that they were made of.
            x = T.bind(x * splat(T.float32(1) / quanta[word], GROUP_SIZE))
        for term, steps in enumerate(isa.units(x)):
            for step, unit in enumerate(steps):
                put(group, term, step, unit)
        if starts is not None:
            store(starts, isa.starts(x), [word])

    _each_group(a, T.int32(0), _inverse_rms(linear, a, T.int32(0)), pack)
    return [starts, quanta]


def _finish(linear: Linear, a: _Arguments, row: Any, column: Any, sums: list[Any]) -> None:
    """Bias, gate and residual on the sums of one vector of columns, one vector a section; then the store."""
    lanes = int(sums[0].ty.dtype.lanes)
    if a.bias is not None:
        sums = [
            y + cast("float32", load(a.bias, [column + section * a.width], lanes)) for section, y in enumerate(sums)
        ]
    y = sums[0]
    if linear.gated:
        gate = T.bind(sums[0])
        one = splat(T.float32(1), lanes)
        y = gate / (one + exp(splat(T.float32(0), lanes) - gate)) * sums[1]
    if a.residual is not None:
        y = y + cast("float32", load(a.residual, a.at(row, column), lanes))
    store(a.out, cast(linear.out_dtype, y), a.at(row, column))


def _share(thread: Any, threads: int, blocks: Any, block_bytes: Any) -> tuple[Any, Any]:
    """The first block of a thread's share, and the one after its last: equal shares, but for the head start."""
    extra = T.bind(T.min(blocks, HEAD_START_BYTES // block_bytes))
    equal = T.bind(blocks - extra)
    first = T.if_then_else(thread == 0, 0, extra + thread * equal // threads)
    return T.bind(first), T.bind(extra + (thread + 1) * equal // threads)


def _decode_kn(linear: Linear, isa: Fp32, threads: int, a: _Arguments) -> None:
    columns, lanes, sections, group_bytes = DECODE_COLUMNS, isa.lanes, linear.sections, linear.group_bytes
    blocks = T.bind((a.width + (columns - 1)) // columns)
    sums = T.alloc_buffer((blocks, sections, columns), "float32")

    def column(block: Any, section: int) -> Any:
        # The last block of a ragged width begins early and computes some columns again.
        return T.min(block * columns, a.width - columns) + section * a.width

    with T.parallel(0, threads) as thread:
        first, end = _share(thread, threads, blocks, a.groups * (sections * columns * group_bytes))

        def prefetch_group(group: Any, block: Any, section: int) -> None:
            for word in range(WORDS_PER_GROUP):
                prefetch(a.weight, [group * WORDS_PER_GROUP + word, column(block, section)])
            prefetch(a.scale, [group, column(block, section)])

        with T.serial(first, end) as block:
            for section in range(sections):
                prefetch_group(T.int32(0), block, section)
                store(sums, splat(T.float32(0), columns), [block, section, 0])
        units = T.alloc_buffer((a.groups, isa.terms, isa.steps, WORDS_PER_GROUP), "int32")
        starts, quanta = _pack(
            linear, isa, a, a.words, lambda group, term, step, unit: store(units, unit, [group, term, step, 0])
        )
        isa.prepare()
        with T.serial(0, a.groups) as group:
            start = tirx.const(0, isa.sum_dtype)
            if starts is not None:
                start = sum_lanes([T.bind(load(starts, [group * WORDS_PER_GROUP], WORDS_PER_GROUP))])
            start = T.bind(splat(start, lanes))
            with T.serial(first, end) as block:
                for section in range(sections):
                    prefetch_group(group + 1, block, section)
                    for within in range(0, columns, lanes):
                        at = T.bind(column(block, section) + within)
                        words = [
                            T.bind(load(a.weight, [group * WORDS_PER_GROUP + word, at], lanes))
                            for word in range(WORDS_PER_GROUP)
                        ]
                        spread = [
                            [
                                [splat(units[group, term, step, word], lanes) for term in range(isa.terms)]
                                for step in range(isa.steps)
                            ]
                            for word in range(WORDS_PER_GROUP)
                        ]
                        scale = cast("float32", load(a.scale, [group, at], lanes))
                        if quanta is not None:
                            scale = scale * splat(quanta[group * WORDS_PER_GROUP], lanes)
                        place = [block, section, within]
                        store(sums, load(sums, place, lanes) + isa.products(start, words, spread) * scale, place)
        with T.serial(first, end) as block:
            finished = [T.bind(load(sums, [block, section, 0], columns)) for section in range(sections)]
            _finish(linear, a, T.int32(0), T.bind(column(block, 0)), finished)


DECODE_ROWS = 4
"""Rows of an NK weight, of each section, that decode takes at once."""

AHEAD_WORDS, LINE_WORDS = 1024, LINE_BYTES // 4
"""How far ahead of an NK weight's words decode asks for others; the words of a cache line."""


def _decode_nk(linear: Linear, isa: Fp32, threads: int, a: _Arguments) -> None:
    lanes, sections, group_bytes = isa.lanes, linear.sections, linear.group_bytes
    padded = a.words + lanes
    blocks = T.bind((a.width + (DECODE_ROWS - 1)) // DECODE_ROWS)
    totals = T.alloc_buffer((blocks, sections, DECODE_ROWS), "float32")
    zero = splat(T.float32(0), lanes)
    # Rows are read side by side, and short ones are soon over.
    ahead = T.bind(T.if_then_else(a.words < AHEAD_WORDS // DECODE_ROWS, AHEAD_WORDS, AHEAD_WORDS // DECODE_ROWS))
    with T.parallel(0, threads) as thread:
        first, end = _share(thread, threads, blocks, a.groups * (sections * DECODE_ROWS * group_bytes))
        for section in range(sections):
            with T.serial(0, AHEAD_WORDS // LINE_WORDS) as line:
                prefetch(a.weight, [first * DECODE_ROWS + section * a.width, line * LINE_WORDS])
        units = T.alloc_buffer((isa.terms, isa.steps, padded), "int32")
        starts, quanta = _pack(
            linear,
            isa,
            a,
            padded,
            lambda group, term, step, unit: store(units, unit, [term, step, group * WORDS_PER_GROUP]),
        )
        with T.serial(a.words, padded) as word:
            for term in range(isa.terms):
                for step in range(isa.steps):
                    T.buffer_store(units, T.int32(0), [term, step, word])
            if starts is not None:
                T.buffer_store(starts, tirx.const(0, isa.sum_dtype), [word])
            if quanta is not None:
                T.buffer_store(quanta, T.float32(0), [word])
        isa.prepare()
        sums = T.alloc_buffer((sections * DECODE_ROWS, lanes), "float32", scope="local")
        with T.serial(first, end) as block:
            # The last block of a ragged width begins early and computes some rows again.
            start = T.bind(T.min(block * DECODE_ROWS, a.width - DECODE_ROWS))
            rows = [start + section * a.width + row for section in range(sections) for row in range(DECODE_ROWS)]

            def accumulate(word: Any, held: int, rows: list[Any] = rows) -> None:
                """Add the products of `held` words from `word` on."""
                # Where a cache line holds several vectors, each iteration asks for the lines of some rows.
                turns = max(1, LINE_WORDS // lanes)
                for row in rows[::turns]:
                    prefetch(a.weight, [row + word // lanes % turns, word + ahead])
                words = [T.bind(_widened(load(a.weight, [row, word], held), lanes, T.uint32(0))) for row in rows]
                each = [
                    [T.bind(load(units, [term, step, word], lanes)) for term in range(isa.terms)]
                    for step in range(isa.steps)
                ]
                start = zero if starts is None else T.bind(load(starts, [word], lanes))
                parts = [T.bind(isa.products(start, [of_row], [each])) for of_row in words]
                quantum = None if quanta is None else T.bind(load(quanta, [word], lanes))
                # A narrower vector's other lanes have words of 0 with activations of 0, or of the row's later words.
                groups = held // WORDS_PER_GROUP
                spread = [min(lane // WORDS_PER_GROUP, groups - 1) for lane in range(lanes)]
                for i, row in enumerate(rows):
                    scale = cast("float32", load(a.scale, [row, word // WORDS_PER_GROUP], groups))
                    scale = splat(scale, lanes) if groups == 1 else shuffle([scale], spread)
                    if quantum is not None:
                        scale = scale * quantum
                    if held < lanes:
                        kept = [T.float32(float(lane < held)) for lane in range(lanes)]
                        scale = scale * tirx.Shuffle(kept, [T.int32(lane) for lane in range(lanes)])
                    store(sums, load(sums, [i, 0], lanes) + parts[i] * scale, [i, 0])

            for i in range(len(rows)):
                store(sums, zero, [i, 0])
            whole = T.bind(a.words // lanes)
            with T.serial(0, whole) as vector:
                accumulate(vector * lanes, lanes)
            done, held = whole * lanes, lanes // 2
            while held >= WORDS_PER_GROUP:
                with T.If(T.bitwise_and(a.words, held) != 0), T.Then():
                    accumulate(T.bind(done), held)
                done = done + T.bitwise_and(a.words, held)
                held //= 2
            loaded = [T.bind(load(sums, [i, 0], lanes)) for i in range(len(rows))]
            for section in range(sections):
                of_rows = sum_lanes(loaded[section * DECODE_ROWS : (section + 1) * DECODE_ROWS])
                store(totals, of_rows, [block, section, 0])
        # Apart, where one block's chain of operations doesn't wait for another's.
        with T.serial(first, end) as block:
            finished = [T.bind(load(totals, [block, section, 0], DECODE_ROWS)) for section in range(sections)]
            _finish(linear, a, T.int32(0), T.bind(T.min(block * DECODE_ROWS, a.width - DECODE_ROWS)), finished)


def _widened(vector: Any, lanes: int, filler: Any) -> Any:
    """A vector of fewer lanes with `filler` after it."""
    held = int(vector.ty.dtype.lanes)
    if held == lanes:
        return vector
    return shuffle([vector, splat(filler, lanes - held)], range(lanes))


TILE_ROWS = 6


def _prefill(linear: Linear, isa: Fp32, a: _Arguments) -> None:
    lanes, tile_rows = isa.lanes, TILE_ROWS
    tiles = T.bind((a.rows + (tile_rows - 1)) // tile_rows)
    units_per_group = isa.steps * WORDS_PER_GROUP
    units = T.alloc_buffer((tiles, a.groups, tile_rows, isa.terms, units_per_group), "int32")
    starts = T.alloc_buffer((tiles, a.groups, tile_rows), "int32") if isa.whole else None
    quanta = T.alloc_buffer((tiles, a.groups, tile_rows), "float32") if isa.whole else None
    with T.parallel(0, tiles) as tile, T.serial(0, tile_rows) as r:
        row = T.bind(T.min(tile * tile_rows + r, a.rows - 1))
        inverse_rms = _inverse_rms(linear, a, row)
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

        _each_group(a, row, inverse_rms, pack)

    # Two vectors of the weight's columns at a time: gate and up of the same columns, or neighbours.
    block_width = lanes if linear.gated else 2 * lanes
    blocks = T.bind((a.width + (block_width - 1)) // block_width)
    each = [(r, v) for r in range(tile_rows) for v in range(2)]
    with T.parallel(0, blocks) as block:
        isa.prepare()
        column = T.bind(T.min(block * block_width, a.width - block_width))
        panel = T.alloc_buffer((a.groups, units_per_group, 2, lanes), "int32")
        scales = T.alloc_buffer((a.groups, 2, lanes), "float32")
        _expand(linear, isa, a, [column, column + (a.width if linear.gated else lanes)], panel, scales)
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
                if linear.gated:
                    _finish(linear, a, row, column, sums)
                else:
                    for v in range(2):
                        _finish(linear, a, row, column + v * lanes, [sums[v]])


def _expand(linear: Linear, isa: Fp32, a: _Arguments, columns: list[Any], panel: Any, scales: Any) -> None:
    """The units of some vectors of columns into `panel`, their scales, fp32, into `scales`."""
    lanes = isa.lanes
    if linear.layout == "KN":

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
