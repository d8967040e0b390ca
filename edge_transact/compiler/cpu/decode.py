"""Products of one row: bound by memory.

Each thread streams its own columns of the packed weights once, with wide loads, asks for those to come beforehand, and
keeps everything else in registers and the first-level cache; it makes its units of the activations itself, which is
faster than to wait for another's. Products that follow each other are one launch: between them threads meet at a
barrier, which costs less than to end and to be woken again (``pragma_parallel_launch_point`` and
``pragma_parallel_barrier_when_finish`` of TVM's ``codegen_cpu.cc``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from edge_transact.compiler.cpu.isa import Fp32
from edge_transact.compiler.cpu.operands import Operands, each_group, finish, inverse_rms
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.vector import LINE_BYTES, cast, load, prefetch, shuffle, splat, store, sum_lanes
from edge_transact.quantization import GROUP_SIZE, WORDS_PER_GROUP

DECODE_COLUMNS = 16
"""Columns of a KN weight that decode takes at once: vectors of fewer share what they load of the activations."""

DECODE_ROWS = 4
"""Rows of an NK weight, of each section, that decode takes at once."""

AHEAD_WORDS, LINE_WORDS = 4096, LINE_BYTES // 4
"""How far ahead of an NK weight's words decode asks for more, half of a small L1 cache; words of a cache line."""

HEAD_START_BYTES = 32 << 10
"""What the calling thread of a kernel reads more than the others, which begin a microsecond later."""


@dataclass(frozen=True)
class BoundMatmul:
    """What to compute, with which instructions, of which buffers."""

    matmul: Matmul
    isa: Fp32
    operands: Operands

    @property
    def padded_words(self) -> Any:
        """Whole vectors of words, and one more for those that read past the last."""
        return (self.operands.words + (2 * self.isa.lanes - 1)) // self.isa.lanes * self.isa.lanes


class _Scratch:
    """What the threads of a launch use beside registers, allocated once: as much as the largest product takes.

    Attributes:
        units: Of the activations, int32 ``[threads, ...]``.
        starts, quanta: Of their words, ``[threads, words]``, each or nothing.
        sums: Of the blocks of the result, fp32.
    """

    def __init__(self, matmuls: Sequence[BoundMatmul], threads: int) -> None:
        def largest(sizes: Iterable[Any]) -> Any:
            return T.bind(functools.reduce(T.max, sizes))

        isa = matmuls[0].isa
        words = largest(bound.padded_words for bound in matmuls)
        self.units = T.alloc_buffer(
            (threads, words * max(bound.isa.terms * bound.isa.steps for bound in matmuls)), "int32"
        )
        self.starts = None if isa.centered else T.alloc_buffer((threads, words), isa.sum_dtype)
        self.quanta = T.alloc_buffer((threads, words), "float32") if isa.whole else None
        most = max(DECODE_COLUMNS, DECODE_ROWS)
        self.sums = T.alloc_buffer(
            (largest((bound.operands.width + most) * bound.matmul.sections for bound in matmuls),), "float32"
        )


def decode(matmuls: Sequence[BoundMatmul], threads: int) -> None:
    """Emit products of one row, one after the other, each cut into as many parts as there are threads.

    Args:
        matmuls: With instructions of one class.
        threads: How many.
    """
    scratch = _Scratch(matmuls, threads)
    stages: list[_Stage] = []
    for bound in matmuls:
        head_start_bytes = 0 if stages else HEAD_START_BYTES
        if bound.matmul.layout == "KN":
            stages.append(_InputMajor(bound, scratch, DECODE_COLUMNS, threads, head_start_bytes))
        else:
            stages.append(_OutputMajor(bound, scratch, DECODE_ROWS, threads, head_start_bytes))

    def run(number: int) -> None:
        with T.parallel(0, threads) as thread:
            if number == 0:
                stages[0].begin(thread)
            stages[number].multiply(thread)
            # What is asked for now comes while the others are waited for.
            if number + 1 < len(stages):
                stages[number + 1].begin(thread)

    if len(stages) == 1:
        run(0)
        return
    with T.attr(T.int32(0), "pragma_parallel_launch_point", 1):
        for number in range(len(stages) - 1):
            with T.attr(T.int32(0), "pragma_parallel_barrier_when_finish", 1):
                run(number)
        run(len(stages) - 1)


def _pack(bound: BoundMatmul, scratch: _Scratch, thread: Any, place: Callable[[Any, int, int], Any]) -> None:
    """The one row's activations as units, and their words' starts and quanta, into the scratch.

    Args:
        bound: The matmul.
        scratch: Where to.
        thread: Whose.
        place: Of a group, a term and a step: where the units of its words begin.
    """
    matmul, isa, a = bound.matmul, bound.isa, bound.operands

    def pack(group: Any, x: Any) -> None:
        word = group * WORDS_PER_GROUP
        if scratch.quanta is not None:
            store(scratch.quanta, splat(isa.quantum(x), WORDS_PER_GROUP), [thread, word])
            # Read from memory again: TVM's analysis of whole numbers would go through all that they were made of.
            x = T.bind(x * splat(T.float32(1) / scratch.quanta[thread, word], GROUP_SIZE))
        for term, steps in enumerate(isa.units(x)):
            for step, unit in enumerate(steps):
                store(scratch.units, unit, [thread, place(group, term, step)])
        if scratch.starts is not None:
            store(scratch.starts, isa.starts(x), [thread, word])

    each_group(a, T.int32(0), inverse_rms(matmul, a, T.int32(0)), pack)


class _Stage:
    """One product of a launch, whose blocks of columns are shared out to the threads.

    Args:
        bound: The matmul.
        scratch: The launch's.
        columns: Of a block.
        threads: How many.
        head_start_bytes: What the first thread reads more than the others.
    """

    def __init__(
        self, bound: BoundMatmul, scratch: _Scratch, columns: int, threads: int, head_start_bytes: int
    ) -> None:
        self.bound, self.matmul, self.isa, self.a = bound, bound.matmul, bound.isa, bound.operands
        self.scratch, self.threads = scratch, threads
        self.blocks = T.bind((self.a.width + (columns - 1)) // columns)
        block_bytes = self.a.groups * (self.matmul.sections * columns * self.matmul.group_bytes)
        self.head_start = head_start_bytes // block_bytes

    def share(self, thread: Any) -> tuple[Any, Any]:
        """The first block of a thread's share, and the one after its last: equal shares, but for the head start."""
        extra = T.bind(T.min(self.blocks, self.head_start))
        equal = T.bind(self.blocks - extra)
        first = T.if_then_else(thread == 0, 0, extra + thread * equal // self.threads)
        return T.bind(first), T.bind(extra + (thread + 1) * equal // self.threads)

    def begin(self, thread: Any) -> None:
        """Ask for the first of the thread's weights."""
        raise NotImplementedError

    def multiply(self, thread: Any) -> None:
        """The thread's share."""
        raise NotImplementedError


class _InputMajor(_Stage):
    """A product with a KN weight, whose columns lie side by side."""

    def column(self, block: Any, section: int) -> Any:
        # The last block of a ragged width begins early and computes some columns again.
        return T.min(block * DECODE_COLUMNS, self.a.width - DECODE_COLUMNS) + section * self.a.width

    def ask_for(self, group: Any, block: Any, section: int) -> None:
        for word in range(WORDS_PER_GROUP):
            prefetch(self.a.weight, [group * WORDS_PER_GROUP + word, self.column(block, section)])
        prefetch(self.a.scale, [group, self.column(block, section)])

    def begin(self, thread: Any) -> None:
        first, end = self.share(thread)
        with T.serial(first, end) as block:
            for section in range(self.matmul.sections):
                self.ask_for(T.int32(0), block, section)

    def multiply(self, thread: Any) -> None:
        matmul, isa, a, scratch = self.matmul, self.isa, self.a, self.scratch
        columns, lanes, sections = DECODE_COLUMNS, isa.lanes, matmul.sections
        first, end = self.share(thread)

        def unit(group: Any, term: int, step: int) -> Any:
            return ((group * isa.terms + term) * isa.steps + step) * WORDS_PER_GROUP

        def sums_of(block: Any, section: int) -> Any:
            return (block * sections + section) * columns

        with T.serial(first, end) as block:
            for section in range(sections):
                store(scratch.sums, splat(T.float32(0), columns), [sums_of(block, section)])
        _pack(self.bound, scratch, thread, unit)
        isa.prepare()
        with T.serial(0, a.groups) as group:
            start = tirx.const(0, isa.sum_dtype)
            if scratch.starts is not None:
                starts = T.bind(load(scratch.starts, [thread, group * WORDS_PER_GROUP], WORDS_PER_GROUP))
                start = sum_lanes([starts])
            start = T.bind(splat(start, lanes))
            with T.serial(first, end) as block:
                for section in range(sections):
                    self.ask_for(group + 1, block, section)
                    for within in range(0, columns, lanes):
                        at = T.bind(self.column(block, section) + within)
                        words = [
                            T.bind(load(a.weight, [group * WORDS_PER_GROUP + word, at], lanes))
                            for word in range(WORDS_PER_GROUP)
                        ]
                        spread = [
                            [
                                [
                                    splat(scratch.units[thread, unit(group, term, step) + word], lanes)
                                    for term in range(isa.terms)
                                ]
                                for step in range(isa.steps)
                            ]
                            for word in range(WORDS_PER_GROUP)
                        ]
                        scale = cast("float32", load(a.scale, [group, at], lanes))
                        if scratch.quanta is not None:
                            scale = scale * splat(scratch.quanta[thread, group * WORDS_PER_GROUP], lanes)
                        place = [sums_of(block, section) + within]
                        total = load(scratch.sums, place, lanes) + isa.products(start, words, spread) * scale
                        store(scratch.sums, total, place)
        with T.serial(first, end) as block:
            finished = [T.bind(load(scratch.sums, [sums_of(block, section)], columns)) for section in range(sections)]
            finish(matmul, a, T.int32(0), T.bind(self.column(block, 0)), finished)


class _OutputMajor(_Stage):
    """A product with an NK weight, whose rows are the columns of the result."""

    def begin(self, thread: Any) -> None:
        first, _ = self.share(thread)
        for section in range(self.matmul.sections):
            with T.serial(0, AHEAD_WORDS // LINE_WORDS) as line:
                prefetch(self.a.weight, [first * DECODE_ROWS + section * self.a.width, line * LINE_WORDS])

    def multiply(self, thread: Any) -> None:
        matmul, isa, a, scratch = self.matmul, self.isa, self.a, self.scratch
        lanes, sections = isa.lanes, matmul.sections
        padded = T.bind(self.bound.padded_words)
        zero = splat(T.float32(0), lanes)
        # Rows are read side by side, and short ones are soon over.
        ahead = T.bind(T.if_then_else(a.words < AHEAD_WORDS // DECODE_ROWS, AHEAD_WORDS, AHEAD_WORDS // DECODE_ROWS))
        first, end = self.share(thread)

        def unit(word: Any, term: int, step: int) -> Any:
            return (term * isa.steps + step) * padded + word

        def totals_of(block: Any, section: int) -> Any:
            return (block * sections + section) * DECODE_ROWS

        _pack(self.bound, scratch, thread, lambda group, term, step: unit(group * WORDS_PER_GROUP, term, step))
        with T.serial(a.words, padded) as word:
            for term in range(isa.terms):
                for step in range(isa.steps):
                    T.buffer_store(scratch.units, T.int32(0), [thread, unit(word, term, step)])
            if scratch.starts is not None:
                T.buffer_store(scratch.starts, tirx.const(0, isa.sum_dtype), [thread, word])
            if scratch.quanta is not None:
                T.buffer_store(scratch.quanta, T.float32(0), [thread, word])
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
                    [T.bind(load(scratch.units, [thread, unit(word, term, step)], lanes)) for term in range(isa.terms)]
                    for step in range(isa.steps)
                ]
                start = zero if scratch.starts is None else T.bind(load(scratch.starts, [thread, word], lanes))
                parts = [T.bind(isa.products(start, [of_row], [each])) for of_row in words]
                quantum = None if scratch.quanta is None else T.bind(load(scratch.quanta, [thread, word], lanes))
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
                store(scratch.sums, of_rows, [totals_of(block, section)])
        # Apart, where one block's chain of operations doesn't wait for another's.
        with T.serial(first, end) as block:
            finished = [
                T.bind(load(scratch.sums, [totals_of(block, section)], DECODE_ROWS)) for section in range(sections)
            ]
            finish(matmul, a, T.int32(0), T.bind(T.min(block * DECODE_ROWS, a.width - DECODE_ROWS)), finished)


def _widened(vector: Any, lanes: int, filler: Any) -> Any:
    """A vector of fewer lanes with `filler` after it."""
    held = int(vector.ty.dtype.lanes)
    if held == lanes:
        return vector
    return shuffle([vector, splat(filler, lanes - held)], range(lanes))
