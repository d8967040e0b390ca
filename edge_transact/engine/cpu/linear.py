"""W4A16 products on CPUs: ``y = x W`` with packed weights, for one row (decode) and for any number of rows (prefill).

Decode is bound by memory: each thread streams its own columns of the packed weights once, with wide loads, and keeps everything else
in registers and the first-level cache. Prefill is bound by arithmetic: the packed weights of two vectors of columns are expanded once into a
panel that stays in the second-level cache, and tiles of rows by columns accumulate in registers. What surrounds a product in a LLaMA,
RMSNorm before it, bias, residual, SiLU gate after it, is done in the same pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as builder

from edge_transact.engine.cpu.isa import ZERO_POINT, Fp32
from edge_transact.engine.cpu.vector import cast, exp, load, shuffle, splat, store, sum_lanes
from edge_transact.quantization import GROUP_SIZE, VALUES_PER_WORD, WORDS_PER_GROUP


@dataclass(frozen=True)
class Linear:
    """A product and what is done in the same pass.

    Attributes:
        in_features: K.
        out_features: N: rows of an NK weight, columns of a KN one.
        layout: ``NK``: weight ``[N, 4 G]``, scale ``[N, G]``; ``KN``: ``[4 G, N]``, ``[G, N]``; ``G = ceil(K / 32)``.
        dtype: Of the activations.
        scale_dtype: Of the scales.
        out_dtype: Of the result.
        norm_eps: Apply RMSNorm to `x` first, with this epsilon and a weight ``[K]``.
        bias: Add a bias ``[N]``.
        gated: The first half of the columns is a gate: ``silu(y[:, :N/2]) * y[:, N/2:]``.
        residual: Add a tensor of the result's shape.
    """

    in_features: int
    out_features: int
    layout: Literal["NK", "KN"]
    dtype: str
    scale_dtype: str
    out_dtype: str
    norm_eps: float | None = None
    bias: bool = False
    gated: bool = False
    residual: bool = False

    @property
    def groups(self) -> int:
        """Quantization groups along K."""
        return math.ceil(self.in_features / GROUP_SIZE)

    @property
    def words(self) -> int:
        """Packed words along K."""
        return self.groups * WORDS_PER_GROUP

    @property
    def sections(self) -> int:
        """Columns of the weight for a column of the result."""
        return 2 if self.gated else 1

    @property
    def width(self) -> int:
        """Columns of the result."""
        return self.out_features // self.sections


class _Arguments:
    """The kernel's buffers: ``x, weight, scale[, norm][, bias][, residual], out``."""

    def __init__(self, linear: Linear, rows: Any, leading: tuple[Any, ...]) -> None:
        def argument(name: str, shape: tuple[Any, ...], dtype: str) -> Any:
            handle = T.arg(name, T.handle())
            return T.match_buffer(handle, shape, dtype)

        k, n = linear.in_features, linear.out_features
        packed = (n, linear.words) if linear.layout == "NK" else (linear.words, n)
        scales = (n, linear.groups) if linear.layout == "NK" else (linear.groups, n)
        x = argument("x", (*leading, k), linear.dtype)
        self.weight = argument("weight", packed, "uint32")
        self.scale = argument("scale", scales, linear.scale_dtype)
        self.norm = argument("norm", (k,), linear.dtype) if linear.norm_eps is not None else None
        self.bias = argument("bias", (n,), linear.dtype) if linear.bias else None
        residual = argument("residual", (*leading, linear.width), linear.dtype) if linear.residual else None
        out = argument("out", (*leading, linear.width), linear.out_dtype)
        self.x = T.decl_buffer((rows, k), linear.dtype, data=x.data)
        self.out = T.decl_buffer((rows, linear.width), linear.out_dtype, data=out.data)
        self.residual = None
        if residual is not None:
            self.residual = T.decl_buffer((rows, linear.width), linear.dtype, data=residual.data)


def kernel(linear: Linear, isa: Fp32, threads: int, *, rows: Literal["one", "s", "b"]) -> tirx.PrimFunc:
    """The product as a PrimFunc.

    Args:
        linear: What to compute.
        isa: With which instructions.
        threads: How many parts decode is cut into.
        rows: ``one``: x is ``[1, 1, K]``; ``s``: ``[1, n, K]``; ``b``: ``[n, 1, K]``.

    The arguments are ``x, weight, scale[, norm][, bias][, residual], out``.
    """
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            T.func_name("w4_linear")
            T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
            count = T.int64(1) if rows == "one" else T.int64()
            leading = {"one": (1, 1), "s": (1, count), "b": (count, 1)}[rows]
            arguments = _Arguments(linear, count, leading)
            with _llvm_ir(isa):
                if rows == "one":
                    (_decode_kn if linear.layout == "KN" else _decode_nk)(linear, isa, threads, arguments)
                else:
                    _prefill(linear, isa, arguments, cast("int32", count))
    return ib.get()


def embed(rows: int, features: int, scale_dtype: str) -> tirx.PrimFunc:
    """Rows of a packed NK matrix: ``ids [n], weight [rows, 4 G], scale [rows, G]`` to ``[n, features]``."""
    groups = math.ceil(features / GROUP_SIZE)
    with IRBuilder() as ib:
        with builder.prim_func(s_tir=True):
            T.func_name("w4_embed")
            T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
            n = T.int64()
            ids = T.match_buffer(T.arg("ids", T.handle()), (n,), "int32")
            weight = T.match_buffer(T.arg("weight", T.handle()), (rows, groups * WORDS_PER_GROUP), "uint32")
            scale = T.match_buffer(T.arg("scale", T.handle()), (rows, groups), scale_dtype)
            out = T.match_buffer(T.arg("out", T.handle()), (n, features), scale_dtype)

            def values(row: Any, word: Any, lanes: int) -> Any:
                shifts = T.Cast(f"uint32x{lanes}", T.ramp(T.int32(0), 4, lanes)) if lanes > 1 else T.uint32(0)
                nibbles = T.bitwise_and(T.shift_right(splat(weight[row, word], lanes), shifts), splat(T.uint32(15), lanes))
                signed = cast("float32", cast("int32", nibbles) - splat(T.int32(ZERO_POINT), lanes))
                return cast(scale_dtype, signed * splat(cast("float32", scale[row, word // WORDS_PER_GROUP]), lanes))

            with T.serial(0, n) as i:
                row = T.bind(ids[i])
                with T.serial(0, features // VALUES_PER_WORD) as word:
                    store(out, values(row, word, VALUES_PER_WORD), [i, word * VALUES_PER_WORD])
                if features % VALUES_PER_WORD:
                    word = features // VALUES_PER_WORD
                    last = T.bind(values(row, word, VALUES_PER_WORD))
                    for j in range(features % VALUES_PER_WORD):
                        T.buffer_store(out, shuffle([last], [j]), [i, word * VALUES_PER_WORD + j])
    return ib.get()


def supports(linear: Linear, isa: Fp32) -> bool:
    """Whether the matrix is large enough for the kernels: at least a vector of columns."""
    return linear.width >= isa.lanes


def _llvm_ir(isa: Fp32) -> Any:
    return T.attr(T.int32(0), "pragma_import_llvm", isa.llvm_ir)


def _row_of_words(linear: Linear, a: _Arguments, row: Any, inverse_rms: Any, word: Any) -> Any:
    """The 8 activations of a word, fp32, normalized; zero beyond K."""
    start = word * VALUES_PER_WORD

    def read(offset: Any, lanes: int) -> Any:
        x = cast("float32", load(a.x, [row, offset], lanes))
        if a.norm is None:
            return x
        return x * splat(inverse_rms, lanes) * cast("float32", load(a.norm, [offset], lanes))

    return read(start, VALUES_PER_WORD)


def _each_word(linear: Linear, a: _Arguments, row: Any, inverse_rms: Any, emit: Any) -> None:
    """Call ``emit(word, x)`` for all words of a row, `x` the word's 8 activations in fp32."""
    whole = linear.in_features // VALUES_PER_WORD
    with T.serial(0, whole) as word:
        emit(word, T.bind(_row_of_words(linear, a, row, inverse_rms, word)))
    if whole == linear.words:
        return
    rest = linear.in_features % VALUES_PER_WORD
    if rest:
        x = T.alloc_buffer((VALUES_PER_WORD,), "float32", scope="local")
        for i in range(VALUES_PER_WORD):
            value = T.float32(0)
            if i < rest:
                k = whole * VALUES_PER_WORD + i
                value = cast("float32", a.x[row, k])
                if a.norm is not None:
                    value = value * inverse_rms * cast("float32", a.norm[k])
            T.buffer_store(x, value, [i])
        emit(T.int32(whole), T.bind(load(x, [0], VALUES_PER_WORD)))
    with T.serial(whole + bool(rest), linear.words) as word:
        emit(word, splat(T.float32(0), VALUES_PER_WORD))


def _inverse_rms(linear: Linear, a: _Arguments, row: Any) -> Any:
    """One over the root mean square of a row, or nothing where there is no norm."""
    if linear.norm_eps is None:
        return None
    lanes, k = 16, linear.in_features
    squares = T.alloc_buffer((lanes,), "float32", scope="local")
    store(squares, splat(T.float32(0), lanes), [0])
    with T.serial(0, k // lanes) as i:
        x = T.bind(cast("float32", load(a.x, [row, i * lanes], lanes)))
        store(squares, load(squares, [0], lanes) + x * x, [0])
    total = T.alloc_buffer((1,), "float32", scope="local")
    T.buffer_store(total, sum_lanes([load(squares, [0], lanes)]), [0])
    if k % lanes:
        with T.serial(k - k % lanes, k) as i:
            x = T.bind(cast("float32", a.x[row, i]))
            T.buffer_store(total, total[0] + x * x, [0])
    return T.bind(T.float32(1) / T.sqrt(total[0] / T.float32(k) + T.float32(linear.norm_eps)))


def _finish(linear: Linear, a: _Arguments, row: Any, column: Any, sums: list[Any]) -> None:
    """Bias, gate and residual on the sums of one vector of columns, one vector a section; then the store."""
    lanes = int(sums[0].ty.dtype.lanes)
    if a.bias is not None:
        sums = [
            y + cast("float32", load(a.bias, [column + section * linear.width], lanes)) for section, y in enumerate(sums)
        ]
    y = sums[0]
    if linear.gated:
        gate = T.bind(sums[0])
        one = splat(T.float32(1), lanes)
        y = gate / (one + exp(splat(T.float32(0), lanes) - gate)) * sums[1]
    if a.residual is not None:
        y = y + cast("float32", load(a.residual, [row, column], lanes))
    store(a.out, cast(linear.out_dtype, y), [row, column])


def _decode_kn(linear: Linear, isa: Fp32, threads: int, a: _Arguments) -> None:
    lanes, width, sections = isa.lanes, linear.width, linear.sections
    units = T.alloc_buffer((linear.words, isa.terms, isa.steps), "int32")
    inverse_rms = _inverse_rms(linear, a, 0)

    def pack(word: Any, x: Any) -> None:
        for term, unit in enumerate(isa.units(x)):
            store(units, unit, [word, term, 0])

    _each_word(linear, a, 0, inverse_rms, pack)
    vectors = math.ceil(width / lanes)
    threads = min(threads, vectors)
    with T.parallel(0, threads) as thread:
        isa.prepare()
        first = T.bind(thread * vectors // threads)
        count = T.bind((thread + 1) * vectors // threads - first)
        sums = T.alloc_buffer((sections, math.ceil(vectors / threads) * lanes), "float32")
        zero = splat(T.float32(0), lanes)

        def column(vector: Any) -> Any:
            return T.bind(T.min((first + vector) * lanes, width - lanes))

        with T.serial(0, count) as vector:
            for section in range(sections):
                store(sums, zero, [section, vector * lanes])
        with T.serial(0, linear.groups) as group, T.serial(0, count) as vector:
            start = column(vector)
            for section in range(sections):
                parts, turn = [zero, zero], 0
                for word in range(WORDS_PER_GROUP):
                    index = group * WORDS_PER_GROUP + word
                    words = T.bind(load(a.weight, [index, start + section * width], lanes))
                    for step in range(isa.steps):
                        weights = T.bind(isa.weights(words, step))
                        for term in range(isa.terms):
                            unit = splat(units[index, term, step], lanes)
                            parts[turn] = T.bind(isa.multiply_add(parts[turn], weights, unit))
                            turn = 1 - turn
                scale = cast("float32", load(a.scale, [group, start + section * width], lanes))
                total = load(sums, [section, vector * lanes], lanes) + (parts[0] + parts[1]) * scale
                store(sums, total, [section, vector * lanes])
        with T.serial(0, count) as vector:
            finished = [T.bind(load(sums, [section, vector * lanes], lanes)) for section in range(sections)]
            _finish(linear, a, 0, column(vector), finished)


def _decode_nk(linear: Linear, isa: Fp32, threads: int, a: _Arguments) -> None:
    lanes, width, sections = isa.lanes, linear.width, linear.sections
    padded = math.ceil(linear.words / lanes) * lanes
    units = T.alloc_buffer((isa.terms, isa.steps, padded), "int32")
    inverse_rms = _inverse_rms(linear, a, 0)

    def pack(word: Any, x: Any) -> None:
        for term, unit in enumerate(isa.units(x)):
            unit = T.bind(unit)
            for step in range(isa.steps):
                T.buffer_store(units, shuffle([unit], [step]), [term, step, word])

    _each_word(linear, a, 0, inverse_rms, pack)
    if padded > linear.words:
        for term in range(isa.terms):
            for step in range(isa.steps):
                with T.serial(linear.words, padded) as word:
                    T.buffer_store(units, T.int32(0), [term, step, word])
    rows_each = 4
    while rows_each > width:
        rows_each //= 2
    blocks = math.ceil(width / rows_each)
    threads = min(threads, blocks)
    zero = splat(T.float32(0), lanes)
    with T.parallel(0, threads) as thread:
        isa.prepare()
        sums = T.alloc_buffer((sections * rows_each, lanes), "float32", scope="local")
        with T.serial(thread * blocks // threads, (thread + 1) * blocks // threads) as block:
            start = T.bind(T.min(block * rows_each, width - rows_each))
            rows = [start + section * width + row for section in range(sections) for row in range(rows_each)]

            def accumulate(word: Any, held: int, rows: list[Any] = rows) -> None:
                """Add the products of `lanes` words from `word` on, of which `held` are in the weight."""
                words = [T.bind(_held(load(a.weight, [row, word], held), lanes, T.uint32(0))) for row in rows]
                parts = [zero] * len(rows)
                for step in range(isa.steps):
                    unit = [T.bind(load(units, [term, step, word], lanes)) for term in range(isa.terms)]
                    for i in range(len(rows)):
                        weights = T.bind(isa.weights(words[i], step))
                        for term in range(isa.terms):
                            parts[i] = T.bind(isa.multiply_add(parts[i], weights, unit[term]))
                groups = held // WORDS_PER_GROUP
                spread = [min(lane // WORDS_PER_GROUP, groups - 1) for lane in range(lanes)]
                for i, row in enumerate(rows):
                    first_group = word // WORDS_PER_GROUP
                    scale = cast("float32", load(a.scale, [row, first_group], groups))
                    scale = splat(scale, lanes) if groups == 1 else shuffle([scale], spread)
                    store(sums, load(sums, [i, 0], lanes) + parts[i] * scale, [i, 0])

            for i in range(len(rows)):
                store(sums, zero, [i, 0])
            with T.serial(0, linear.words // lanes) as vector:
                accumulate(vector * lanes, lanes)
            if linear.words % lanes:
                accumulate(T.int32(linear.words // lanes * lanes), linear.words % lanes)
            loaded = [T.bind(load(sums, [i, 0], lanes)) for i in range(len(rows))]
            finished = [T.bind(sum_lanes(loaded[i : i + rows_each])) for i in range(0, len(rows), rows_each)]
            _finish(linear, a, 0, start, finished)


def _held(vector: Any, lanes: int, filler: Any) -> Any:
    """A vector of fewer lanes with `filler` after it."""
    held = int(vector.ty.dtype.lanes)
    if held == lanes:
        return vector
    return shuffle([vector, splat(filler, lanes - held)], range(lanes))


TILE_ROWS = 6


def _prefill(linear: Linear, isa: Fp32, a: _Arguments, count: Any) -> None:
    lanes, width, sections = isa.lanes, linear.width, linear.sections
    tile_rows = TILE_ROWS
    tiles = T.bind((count + tile_rows - 1) // tile_rows)
    units = T.alloc_buffer((tiles, linear.words, isa.steps, isa.terms, tile_rows), "int32")
    with T.parallel(0, tiles) as tile:
        with T.serial(0, tile_rows) as r:
            row = T.bind(T.min(tile * tile_rows + r, count - 1))
            inverse_rms = _inverse_rms(linear, a, row)

            def pack(word: Any, x: Any) -> None:
                for term, unit in enumerate(isa.units(x)):
                    unit = T.bind(unit)
                    for step in range(isa.steps):
                        T.buffer_store(units, shuffle([unit], [step]), [tile, word, step, term, r])

            _each_word(linear, a, row, inverse_rms, pack)

    # Two vectors of the weight's columns at a time: gate and up of the same columns, or neighbours.
    if linear.gated:
        vectors_each, starts = 1, [0, width]
    else:
        vectors_each = 2 if width >= 2 * lanes else 1
        starts = [i * lanes for i in range(vectors_each)]
    nv = len(starts)
    step_columns = vectors_each * lanes
    blocks = math.ceil(width / step_columns)
    zero = splat(T.float32(0), lanes)
    with T.parallel(0, blocks) as block:
        isa.prepare()
        column = T.bind(T.min(block * step_columns, width - step_columns))
        panel = T.alloc_buffer((linear.words, isa.steps, nv, lanes), "int32")
        scales = T.alloc_buffer((linear.groups, nv, lanes), "float32")
        _expand(linear, isa, a, [column + start for start in starts], panel, scales)
        parts = T.alloc_buffer((tile_rows, nv, lanes), "float32", scope="local")
        totals = T.alloc_buffer((tile_rows, nv, lanes), "float32", scope="local")
        each = [(r, v) for r in range(tile_rows) for v in range(nv)]
        with T.serial(0, tiles) as tile:
            for r, v in each:
                store(totals, zero, [r, v, 0])
            with T.serial(0, linear.groups) as group:
                for r, v in each:
                    store(parts, zero, [r, v, 0])
                with T.serial(0, WORDS_PER_GROUP) as w:
                    word = group * WORDS_PER_GROUP + w
                    for step in range(isa.steps):
                        weights = [T.bind(load(panel, [word, step, v, 0], lanes)) for v in range(nv)]
                        for term in range(isa.terms):
                            for r in range(tile_rows):
                                unit = T.bind(splat(units[tile, word, step, term, r], lanes))
                                for v in range(nv):
                                    part = isa.multiply_add(load(parts, [r, v, 0], lanes), weights[v], unit)
                                    store(parts, part, [r, v, 0])
                scale = [T.bind(load(scales, [group, v, 0], lanes)) for v in range(nv)]
                for r, v in each:
                    total = load(totals, [r, v, 0], lanes) + load(parts, [r, v, 0], lanes) * scale[v]
                    store(totals, total, [r, v, 0])
            for r in range(tile_rows):
                with T.If(tile * tile_rows + r < count), T.Then():
                    row = tile * tile_rows + r
                    sums = [T.bind(load(totals, [r, v, 0], lanes)) for v in range(nv)]
                    if linear.gated:
                        _finish(linear, a, row, column, sums)
                    else:
                        for v in range(nv):
                            _finish(linear, a, row, column + v * lanes, [sums[v]])


def _expand(linear: Linear, isa: Fp32, a: _Arguments, columns: list[Any], panel: Any, scales: Any) -> None:
    """The units of some vectors of columns into `panel`, their scales, fp32, into `scales`."""
    lanes = isa.lanes
    if linear.layout == "KN":
        words_of = lambda word, v: load(a.weight, [word, columns[v]], lanes)  # noqa: E731
        with T.serial(0, linear.groups) as group:
            for v in range(len(columns)):
                store(scales, cast("float32", load(a.scale, [group, columns[v]], lanes)), [group, v, 0])
    else:
        turned = T.alloc_buffer((linear.words, len(columns), lanes), "uint32")
        for v in range(len(columns)):
            with T.serial(0, linear.words) as word:
                for lane in range(lanes):
                    T.buffer_store(turned, a.weight[columns[v] + lane, word], [word, v, lane])
            with T.serial(0, linear.groups) as group:
                for lane in range(lanes):
                    T.buffer_store(scales, cast("float32", a.scale[columns[v] + lane, group]), [group, v, lane])
        words_of = lambda word, v: load(turned, [word, v, 0], lanes)  # noqa: E731
    with T.serial(0, linear.words) as word:
        for v in range(len(columns)):
            words = T.bind(words_of(word, v))
            for step in range(isa.steps):
                store(panel, isa.weights(words, step), [word, step, v, 0])
