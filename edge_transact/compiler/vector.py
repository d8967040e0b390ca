"""Vector expressions without a TIR operator, and how kernels are emitted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from tvm import tirx
from tvm.ir import Call, PrimType
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Buffer, Expr
from tvm.tirx.script.builder import ir

Index: TypeAlias = Expr | int
"""An index or a size; Python numbers become constants."""


def tensor(name: str, shape: Sequence[Index], dtype: str, offset: Expr | None = None) -> Buffer:
    """A tensor argument of the kernel that is being emitted; views have an offset, a symbolic variable."""
    return T.match_buffer(T.arg(name, T.handle()), shape, dtype, elem_offset=offset)


@contextmanager
def kernel_body(
    attributes: Mapping[str, object], *, name: str | None = None, private: bool = False
) -> Iterator[IRBuilder]:
    """Collect the statements that the body emits as a kernel, which `IRBuilder.get` returns afterwards."""
    with IRBuilder() as builder, ir.prim_func(private=private, s_tir=True):
        if name is not None:
            T.func_name(name)
        T.func_attr(attributes)
        yield builder


def splat(value: Expr, lanes: int) -> Expr:
    """The value in every lane."""
    return value if lanes == 1 else T.broadcast(value, lanes)


def cast(dtype: str, value: Expr) -> Expr:
    """Convert each lane to `dtype`; a value of that dtype stays as it is."""
    lanes = lanes_of(value)
    full = dtype if lanes == 1 else f"{dtype}x{lanes}"
    return value if value.ty.dtype == full else T.Cast(full, value)


def lanes_of(value: Expr) -> int:
    return value.ty.dtype.lanes


def scalar_dtype(value: Expr) -> str:
    return str(value.ty.dtype.with_lanes(1))


def load(buffer: Buffer, indices: Sequence[Index], lanes: int) -> Expr:
    """Load `lanes` elements from `indices` on, along the last dimension."""
    dtype = str(buffer.dtype)
    return buffer.vload(list(indices), dtype if lanes == 1 else f"{dtype}x{lanes}")


def store(buffer: Buffer, value: Expr, indices: Sequence[Index]) -> None:
    """Store the lanes of `value` from `indices` on, along the last dimension."""
    lanes = lanes_of(value)
    *outer, last = indices
    T.buffer_store(buffer, value, [*outer, last if lanes == 1 else T.ramp(last, 1, lanes)])


LINE_BYTES = 64
"""Bytes of a cache line, which `prefetch` fetches."""

LINE_WORDS = LINE_BYTES // 4


def prefetch(buffer: Buffer, indices: Sequence[Index], *, far: bool = False) -> None:
    """Prefetch the cache line of an element, which may lie beyond the buffer.

    The line goes to the L1 cache, marked as used once: weights are needed again only a token later, and a CPU that
    keeps such lines out of its larger caches keeps other weights in them. With `far`, it goes to the L2 cache only,
    which waits for more lines at once and so keeps the memory busy; for weights, an L1 prefetch follows.
    """
    read, data = T.int32(0), T.int32(1)
    # LLVM's degrees of locality: on x86-64, 0 is prefetchnta and 2 is prefetcht1.
    locality = T.int32(2 if far else 0)
    # Not T.address_of: it returns a pointer, and TVM 0.26 can't give such a function the symbol prefix that apps need.
    address = Call("tirx.address_of", [buffer[tuple(indices)]], ret_ty=PrimType("uint64"))
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", address, read, locality, data))


def align_stack(lanes: int) -> None:
    """Align the stack frame to vectors of `lanes` fp32 lanes, so that spilled vectors don't straddle cache lines.

    TVM aligns it to 16 bytes only; LLVM to a vector in it that can't become a register, because it is prefetched.
    """
    if lanes > 4:
        prefetch(T.alloc_buffer((1,), f"float32x{lanes}"), [0])


def shuffle(vectors: Sequence[Expr], indices: Sequence[int]) -> Expr:
    """The lanes `indices` of the concatenated vectors."""
    vectors = list(vectors)
    # A TIR shuffle may not have more lanes than its operands have together.
    repeats = -(-len(indices) // sum(lanes_of(vector) for vector in vectors))
    return tirx.Shuffle(vectors * repeats, [T.int32(i) for i in indices])


def join(vectors: Sequence[Expr]) -> Expr:
    return vectors[0] if len(vectors) == 1 else shuffle(vectors, range(sum(lanes_of(vector) for vector in vectors)))


def transpose(rows: Sequence[Expr]) -> list[Expr]:
    """Transpose rows of four lanes, a multiple of four rows: four vectors, with a lane for each row."""
    lanes = len(rows)
    quads = range(0, lanes, 4)
    # Rows 4 n + i are neighbours, so that every other shuffle stays within 128 bits.
    zeroth, first, second, third = (T.bind(shuffle([rows[quad + i] for quad in quads], range(lanes))) for i in range(4))

    def pick(a: Expr, b: Expr, order: Sequence[int]) -> Expr:
        return T.bind(shuffle([a, b], [quad + i for quad in quads for i in order]))

    interleaved = (0, lanes, 1, lanes + 1), (2, lanes + 2, 3, lanes + 3)
    halves = (0, 1, lanes, lanes + 1), (2, 3, lanes + 2, lanes + 3)
    pairs = [(pick(zeroth, first, order), pick(second, third, order)) for order in interleaved]
    return [pick(a, b, order) for a, b in pairs for order in halves]


def sum_lanes(vectors: Sequence[Expr], row: int | None = None) -> Expr:
    """The sum of each vector, one per lane, or of each `row` lanes of all vectors; at most as many vectors as lanes."""
    row = lanes_of(vectors[0]) if row is None else row
    while len(vectors) > 1 or row > 1:
        vectors = add_halves(vectors, row)
        row //= 2
    return vectors[0]


def add_halves(vectors: Sequence[Expr], row: int) -> list[Expr]:
    """Add the halves of each `row` lanes. Two vectors become one, as a vector then holds twice as many rows."""
    half = row // 2
    pairs = [vectors[i : i + 2] for i in range(0, len(vectors), 2)]
    held = sum(lanes_of(vector) for vector in pairs[0]) // row
    low = [segment * row + lane for segment in range(held) for lane in range(half)]
    return [T.bind(shuffle(pair, low) + shuffle(pair, [i + half for i in low])) for pair in pairs]


def add_neighbours(first: Expr, second: Expr, unit: int = 1) -> Expr:
    """Neighbouring units of `unit` lanes added, of each four of `first`, then of `second`, in turn: as Arm's addp."""
    lanes = lanes_of(first)
    fours = [v * lanes + four for four in range(0, lanes, 4 * unit) for v in (0, 1)]

    def every_second(start: int) -> Expr:
        places = [four + (start + i) * unit for four in fours for i in (0, 2)]
        return shuffle([first, second], [place + lane for place in places for lane in range(unit)])

    return T.bind(every_second(0) + every_second(1))


def add_quads(vectors: Sequence[Expr], unit: int = 1) -> Expr:
    """The sums of each four units of four vectors: of the first four of each vector, then of their second four, ..."""
    a, b, c, d = vectors
    return add_neighbours(add_neighbours(a, b, unit), add_neighbours(c, d, unit), unit)


def max_lanes(vector: Expr) -> Expr:
    lanes = lanes_of(vector)
    while lanes > 1:
        lanes //= 2
        vector = T.bind(T.max(shuffle([vector], range(lanes)), shuffle([vector], range(lanes, 2 * lanes))))
    return vector


def max_magnitude(vector: Expr) -> Expr:
    """The largest magnitude of fp32 lanes. Without their sign, floats order like their bits."""
    lanes = lanes_of(vector)
    bits = T.bitwise_and(T.reinterpret(f"int32x{lanes}", vector), splat(T.int32(0x7FFFFFFF), lanes))
    return T.reinterpret("float32", T.call_llvm_pure_intrin("int32", "llvm.vector.reduce.smax", bits))


def exp(value: Expr) -> Expr:
    """The exponential of each fp32 lane, to 2 units in the last place, without a call; clamped to the normal range.

    ``2 ** n * p(r)`` with ``n = round(x log2 e)`` and the Cephes polynomial for ``e ** r``, ``|r| <= ln 2 / 2``.
    """
    lanes = lanes_of(value)

    def constant(number: float) -> Expr:
        return splat(T.float32(number), lanes)

    x = T.bind(T.max(T.min(value, constant(88.3)), constant(-87.3)))
    n = T.bind(T.nearbyint(x * constant(math.log2(math.e))))
    r = T.bind(x - n * constant(0.693359375) - n * constant(-2.12194440e-4))
    p = constant(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = T.bind(p * r + constant(coefficient))
    p = p * r * r + r + constant(1.0)
    exponent = T.shift_left(cast("int32", n) + splat(T.int32(127), lanes), splat(T.int32(23), lanes))
    return p * T.reinterpret("float32" if lanes == 1 else f"float32x{lanes}", exponent)


def sin_cos(angle: Expr) -> tuple[Expr, Expr]:
    """Sine and cosine of each fp32 lane, to 2 units in the last place of 1 for ``|angle| < 1e5``, without a call.

    Subtracts the nearest multiple of pi / 2 in three parts (Cody and Waite), then evaluates the Cephes polynomials.
    """
    lanes = lanes_of(angle)

    def constant(number: float) -> Expr:
        return splat(T.float32(number), lanes)

    n = T.bind(T.nearbyint(angle * constant(2 / math.pi)))
    r = angle
    for part in (1.5703125, 4.837512969970703125e-4, 7.54978995489188216e-8):
        r = T.bind(r - n * constant(part))
    square = T.bind(r * r)

    def polynomial(a: float, b: float, c: float) -> Expr:
        return (constant(a) * square + constant(b)) * square + constant(c)

    sine = T.bind(polynomial(-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1) * square * r + r)
    cosine = polynomial(2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
    cosine = T.bind(cosine * square * square - constant(0.5) * square + constant(1.0))

    def odd(number: Expr) -> Expr:
        return T.bind(number - constant(2.0) * T.floor(number * constant(0.5)))

    def sign(quadrant: Expr) -> Expr:
        """The sine's sign in a quadrant, 1 or -1."""
        return constant(1.0) - constant(2.0) * odd(T.bind(T.floor(quadrant * constant(0.5))))

    swapped, kept = odd(n), T.bind(constant(1.0) - odd(n))
    s = (sine * kept + cosine * swapped) * sign(n)
    c = (cosine * kept + sine * swapped) * sign(n + constant(1.0))
    return T.bind(s), T.bind(c)
