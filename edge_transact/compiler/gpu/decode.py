"""Matmuls of one row on GPUs: the threads of a work group share the row, columns of the result, and K."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.gpu.buffers import MatmulBuffers
from edge_transact.compiler.gpu.source import C_NAMES, LANES, blocks, call, load_vector, store_vector, wait
from edge_transact.compiler.lowering import SCHEDULED
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.vector import cast, kernel_body, shuffle, splat

SUMS = 16
"""The sums of a norm that are left after the first of two steps of adding up all threads' sums."""


class Activations:
    """Reads a row's features from global memory; if `ragged`, K isn't a multiple of 32, and the rest is zeros."""

    def __init__(self, buffers: MatmulBuffers, *, ragged: bool) -> None:
        self.buffers, self.ragged = buffers, ragged

    def prepare(self, thread: Expr) -> None:
        """Emit the code before the first `load`; `thread` is the thread's number in its work group."""

    def load(self, k: Expr) -> Expr:
        """Features `k` to ``k + 7``; `k` is a multiple of 8."""
        a = self.buffers
        if not self.ragged:
            return load_vector(a.x, a.feature(0, k), LANES)
        # The last word again, times 0.
        x = load_vector(a.x, a.feature(0, T.min(k, a.features - LANES)), LANES)
        factor = cast(a.matmul.dtype, T.Select(k < a.features, T.float32(1), T.float32(0)))
        return T.bind(x * splat(factor, LANES))


class NormalizedActivations(Activations):
    """Applies RMSNorm to a row in every work group, which costs less than a launch, and keeps it in local memory.

    The threads of a work group are a multiple of `SUMS`; `scratch` is local memory for ``threads + SUMS`` sums.
    """

    def __init__(self, buffers: MatmulBuffers, features: int, threads: int, scratch: Buffer) -> None:
        super().__init__(buffers, ragged=False)
        self.threads = threads
        # The last group is filled up with zeros.
        size = buffers.matmul.quantization.group_size
        padded = blocks(features, size) * size
        self.normalized = T.alloc_buffer((padded,), buffers.matmul.dtype, scope="shared")
        self.partial = scratch

    def prepare(self, thread: Expr) -> None:
        a, partial = self.buffers, self.partial
        assert a.norm is not None
        name, lanes = C_NAMES[a.matmul.dtype], LANES
        turns = blocks(self.normalized.shape[0] // lanes, self.threads)
        total = T.alloc_buffer((1,), "float32", scope="local")
        T.buffer_store(total, T.float32(0), [0])
        with T.serial(0, turns) as turn:
            k = T.bind((turn * self.threads + thread) * lanes)
            with T.If(k < a.features), T.Then():
                values = load_vector(a.x, [0, 0, k], lanes)
                squares = call("float32", f"dot_{name}", values, cast("float32", values), total[0])
                T.buffer_store(total, squares, [0])
        T.buffer_store(partial, total[0], [thread])
        wait()
        with T.If(thread < SUMS), T.Then():
            each = self.threads // SUMS
            T.buffer_store(partial, _sum(partial, thread * each, each), [self.threads + thread])
        wait()
        mean = _sum(partial, self.threads, SUMS) / cast("float32", a.features)
        factor = T.bind(T.rsqrt(mean + T.float32(a.matmul.norm_eps)))
        with T.serial(0, turns) as turn:
            k = T.bind((turn * self.threads + thread) * lanes)
            with T.If(k < a.features):
                with T.Then():
                    values, weight = load_vector(a.x, [0, 0, k], lanes), load_vector(a.norm, [k], lanes)
                    kind = f"{a.matmul.dtype}x{lanes}"
                    store_vector(self.normalized, call(kind, f"normalized_{name}", values, factor, weight), [k])
                with T.Else(), T.If(k < self.normalized.shape[0]), T.Then():
                    zeros = splat(cast(a.matmul.dtype, T.float32(0)), lanes)
                    store_vector(self.normalized, zeros, [k])
        wait()

    def load(self, k: Expr) -> Expr:
        return load_vector(self.normalized, [k], LANES)


def _sum(partial: Buffer, first: Expr | int, count: int) -> Expr:
    total = partial[first]
    for i in range(1, count):
        total = total + partial[first + i]
    return total


UNIT = 16
"""The functions of ``w4.cl`` divide weights by this."""

SIDES = {16: 16, 8: 32, 4: 64}
"""Results that a work group computes at the same time, by the most parts that K then has."""

WAVE = 64
"""Threads that a GPU runs in step. Adreno's waves are this wide or twice as wide."""


def threads_for(features: int | None, group_size: int) -> tuple[int, int]:
    """Parts of K, and results at the same time, among which a work group's threads are divided.

    Chosen so that most threads are busy: with 18 groups of 32 features, 16 parts would mostly idle in the second turn,
    and 6 are busy for three. Without `features` (K), for many groups.
    """
    groups = blocks(features, group_size) if features is not None else max(SIDES)

    def shape(parts: int) -> tuple[int, int]:
        return parts, SIDES[min(most for most in SIDES if parts <= most)]

    def busy(parts: int) -> tuple[float, int]:
        threads = math.prod(shape(parts))
        return groups / (blocks(groups, parts) * parts) * threads / (blocks(threads, WAVE) * WAVE), parts

    # At least two parts: a thread finishes one result, and computes up to two.
    return shape(max(range(2, max(SIDES) + 1), key=busy))


def decode(matmul: Matmul, columns: int, *, features: int | None = None, ragged: bool = False) -> tirx.PrimFunc:
    """The kernel for one row: ``x [1, 1, K], weight, scale[, norm][, bias][, residual], out [1, 1, width]``.

    A thread computes `columns` columns: neighbours in KN, and in NK rows of the weight that lie `SIDES` apart.
    `features` (K) is required with a norm. `ragged`: K is a multiple of 8, but not of 32.
    """
    with kernel_body(SCHEDULED) as ib:
        a = MatmulBuffers(matmul, columns if matmul.layout == "KN" else 1, one_row=True, features=features)
        parts, side = threads_for(features, matmul.quantization.group_size)
        results, threads = side * columns, parts * side
        with T.thread_binding(blocks(a.width, results), thread="blockIdx.x") as block:
            # Local memory of the work group. Norm and results share one array, because TVM might overlap two arrays
            # while slower threads still read the first.
            scratch = max(parts * matmul.sections * results, threads + SUMS)
            partial = T.alloc_buffer((scratch,), "float32", scope="shared")
            row = Activations(a, ragged=ragged)
            if features is not None:
                row = NormalizedActivations(a, features, threads, partial)
            across = side if matmul.layout == "KN" else parts
            with (
                T.thread_binding(threads // across, thread="threadIdx.y") as y,
                T.thread_binding(across, thread="threadIdx.x") as x,
            ):
                row.prepare(y * across + x)
                sums = T.alloc_buffer((matmul.sections * columns,), "float32", scope="local")
                for i in range(matmul.sections * columns):
                    T.buffer_store(sums, T.float32(0), [i])
                if matmul.layout == "KN":
                    part, own = y, [x * columns + i for i in range(columns)]
                    # Threads beyond the last column repeat it, because all must reach the barrier.
                    column = T.bind(T.min(block * results + x * columns, a.width - columns))
                    _add_kn(a, row, sums, part, parts, a.starts(column), columns)
                else:
                    part, own = x, [y + side * i for i in range(columns)]
                    rows = [T.bind(T.min(block * results + i, a.width - 1)) for i in own]
                    _add_nk(a, row, sums, part, parts, rows)
                for section in range(matmul.sections):
                    for i, result in enumerate(own):
                        index = (part * matmul.sections + section) * results + result
                        T.buffer_store(partial, sums[section * columns + i], [index])
                wait()
                # Bound here, so that it occupies no register in the loop.
                thread = T.bind(y * across + x)
                column = T.bind(block * results + thread)
                with T.If(T.And(thread < results, column < a.width)), T.Then():
                    totals = []
                    for section in range(matmul.sections):
                        total = partial[section * results + thread]
                        for other in range(1, parts):
                            total = total + partial[(other * matmul.sections + section) * results + thread]
                        totals.append(total * T.float32(UNIT))
                    a.finish(T.int32(0), column, totals)
    return ib.get()


def _add_kn(
    a: MatmulBuffers, row: Activations, sums: T.Buffer, part: Expr, parts: int, starts: Sequence[Expr], columns: int
) -> None:
    per_group = a.matmul.quantization.words_per_group
    with T.serial(0, _turns(a, part, parts)) as turn:
        group = T.bind(turn * parts + part)
        scales = [a.scales(group, start, columns) for start in starts]
        products = _Products(a.matmul.dtype, a.matmul.sections * columns)
        for word in range(per_group):
            index = T.bind(group * per_group + word)
            x = row.load(index * LANES)
            for section, start in enumerate(starts):
                words = a.words(index, start, columns)
                for i in range(columns):
                    products.add(section * columns + i, x, _lane(words, i))
        products.add_to(sums, [_lane(scale, i) for scale in scales for i in range(columns)])


def _add_nk(a: MatmulBuffers, row: Activations, sums: T.Buffer, part: Expr, parts: int, rows: Sequence[Expr]) -> None:
    weights = [start for section in zip(*map(a.starts, rows), strict=True) for start in section]
    per_group = a.matmul.quantization.words_per_group
    with T.serial(0, _turns(a, part, parts)) as turn:
        group = T.bind(turn * parts + part)
        x = [row.load(group * a.matmul.quantization.group_size + word * LANES) for word in range(per_group)]
        products = _Products(a.matmul.dtype, len(weights))
        for i, weight in enumerate(weights):
            words = load_vector(a.weight, [0, (weight * a.groups + group) * per_group], per_group)
            for word in range(per_group):
                products.add(i, x[word], _lane(words, word))
        products.add_to(sums, [T.bind(a.scale[0, weight * a.groups + group]) for weight in weights])


def _turns(a: MatmulBuffers, part: Expr, parts: int) -> Expr:
    if parts & (parts - 1):
        return call("int32", "quotient", a.groups - part + (parts - 1), T.int32(parts))
    # A shift: TVM needs no code to round it down.
    return blocks(a.groups - part, parts)


class _Products:
    """Sums over a group of 32, each in two lanes."""

    def __init__(self, dtype: str, count: int) -> None:
        self.dtype = dtype
        self.sums = [splat(cast(dtype, T.float32(0)), 2)] * count

    def add(self, i: int, x: Expr, word: Expr) -> None:
        self.sums[i] = call(f"{self.dtype}x2", f"w4_dot_{C_NAMES[self.dtype]}", x, word, self.sums[i])

    def add_to(self, sums: T.Buffer, scales: Sequence[Expr]) -> None:
        for i, (pair, scale) in enumerate(zip(self.sums, scales, strict=True)):
            total = cast("float32", _lane(pair, 0)) + cast("float32", _lane(pair, 1))
            T.buffer_store(sums, sums[i] + total * cast("float32", scale), [i])


def _lane(vector: Expr, lane: int) -> Expr:
    return vector if int(vector.ty.dtype.lanes) == 1 else shuffle([vector], [lane])
