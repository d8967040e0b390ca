"""Decode of one row with an NK weight: a vector holds words of one column along K, which are adjacent in memory."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.cpu.decode.base import DecodeMatmul, padded_words
from edge_transact.compiler.vector import (
    LINE_WORDS,
    add_halves,
    cast,
    join,
    lanes_of,
    load,
    prefetch,
    shuffle,
    splat,
    store,
    sum_lanes,
)

AHEAD_WORDS = 4096
"""How far ahead of the words in use decode prefetches: half of a small L1 cache."""

NEAR_WORDS = 1152
"""How far ahead of the words in use decode prefetches from the L2 to the L1 cache."""

NEAR_WORDS_OF_LONG_ROWS = 64
"""The same within each row of a tile, where rows have `AHEAD_WORDS` words or more together."""


class DecodeNK(DecodeMatmul):
    """Multiplies four columns (rows of the weight) at a time, with the sums of all four in one vector."""

    least_columns = 4
    spreads_groups = True
    padded_words: Expr

    def prefetch_first(self, thread: Expr) -> None:
        first, _ = self.share(thread)
        for section in range(self.matmul.sections):
            with T.serial(0, AHEAD_WORDS // LINE_WORDS) as line:
                row = first * self.columns + section * self.buffers.width
                prefetch(self.buffers.weight, [row, line * LINE_WORDS], far=self.isa.prefetches_far)

    def multiply(self, thread: Expr) -> None:
        words = self.buffers.words
        self.padded_words = T.bind(padded_words(self.buffers, self.isa))
        # The rows of a tile are read concurrently, and a short row ends before a large distance pays.
        short = T.bind(words < AHEAD_WORDS // self.columns)
        ahead = T.bind(T.if_then_else(short, AHEAD_WORDS, AHEAD_WORDS // self.columns))
        near = T.bind(T.if_then_else(short, NEAR_WORDS, NEAR_WORDS_OF_LONG_ROWS))
        first, end = self.share(thread)
        self.pack_activations(thread)
        with T.serial(first, end) as block:
            self._multiply_block(thread, block, ahead, near)

    def _multiply_block(self, thread: Expr, block: Expr, ahead: Expr, near: Expr) -> None:
        lanes, words = self.isa.lanes, self.buffers.words
        columns = _Columns(self, thread, T.bind(self.first_column(block)), ahead, near)
        full = T.bind(words // lanes * lanes)
        with T.serial(0, words // lanes) as vector:
            columns.accumulate(vector)
        # The rest, less than a vector: a half of one, a fourth, ...
        held, word = lanes // 2, full
        while held >= self.buffers.words_per_group:
            with T.If(T.bitwise_and(words, held) != 0), T.Then():
                columns.accumulate_rest(word, held)
            held, word = held // 2, T.bind(word + T.bitwise_and(words, held))
        for section in range(self.matmul.sections):
            store(self.sums, columns.sums(section), [thread, self.sums_of(T.int32(0), block, section)])

    def place(self, group: Expr, digit: int, step: int) -> Expr:
        return self.place_of_word(group * self.buffers.words_per_group, digit, step)

    def place_of_word(self, word: Expr, digit: int, step: int) -> Expr:
        """The index in a row of `Scratch.activations` of a word; later words follow."""
        return (digit * self.isa.steps + step) * self.padded_words + word


class _Columns:
    """A block's columns, from `first` on in each section, and their sums, by group and for a `rest` of groups."""

    def __init__(self, of: DecodeNK, thread: Expr, first: Expr, ahead: Expr, near: Expr) -> None:
        self.of, self.isa, self.buffers, self.scratch = of, of.isa, of.buffers, of.scratch
        self.thread, self.ahead, self.near = thread, ahead, near
        sections = of.matmul.sections
        self.columns = [
            [first + section * self.buffers.width + i for i in range(of.columns)] for section in range(sections)
        ]
        self.vectors = T.alloc_buffer((sections, self.isa.lanes), "float32")
        self.rest = T.alloc_buffer((sections, of.columns), "float32")
        for section in range(sections):
            store(self.vectors, splat(T.float32(0), self.isa.lanes), [section, 0])
            store(self.rest, splat(T.float32(0), of.columns), [section, 0])

    def accumulate(self, vector: Expr) -> None:
        """Add the products of one vector of words; LLVM would interleave two or four, and spill."""
        lanes, word = self.isa.lanes, T.bind(vector * self.isa.lanes)
        self._prefetch(vector)
        activations = self._load_activations(word, lanes)
        for section, columns in enumerate(self.columns):
            scales = self._load_scales(columns, word)
            products = self.isa.sum_quads(
                [self._multiply(load(self.buffers.weight, [column, word], lanes), activations) for column in columns]
            )
            sums = self._scaled(word, lanes, products, scales, range(lanes))
            store(self.vectors, load(self.vectors, [section, 0], lanes) + sums, [section, 0])

    def accumulate_rest(self, word: Expr, held: int) -> None:
        """Add the products of `held` words from `word` on; a vector then holds those of several columns."""
        size = self.buffers.words_per_group
        together, groups = self.isa.lanes // held, held // size
        activations = self._load_activations(word, held)
        for section, columns in enumerate(self.columns):
            loaded = [load(self.buffers.weight, [column, word], held) for column in columns]
            vectors = [join(loaded[i : i + together]) for i in range(0, len(columns), together)]
            totals = [T.bind(self.isa.total(self._multiply(vector, activations))) for vector in vectors]
            # From here on, those of a column follow each other.
            products = sum_lanes(totals, size)
            scales = join([load(self.buffers.scale, [column, word // size], groups) for column in columns])
            order = [size * i for i in range(groups)] * len(columns)
            sums = self._scaled(word, held, products, T.bind(cast("float32", scales)), order)
            store(self.rest, load(self.rest, [section, 0], len(columns)) + sum_lanes([sums], groups), [section, 0])

    def sums(self, section: int) -> Expr:
        sums = T.bind(load(self.vectors, [section, 0], self.isa.lanes))
        while lanes_of(sums) > self.of.columns:
            (sums,) = add_halves([sums], lanes_of(sums))
        return sums + load(self.rest, [section, 0], self.of.columns)

    def _multiply(self, words: Expr, activations: Sequence[Sequence[Expr]]) -> list[Expr]:
        """The accumulators of a vector of words, from zero."""
        start = splat(tirx.const(0, self.isa.accumulator_dtype), self.isa.lanes)
        return self.isa.accumulate(start, [T.bind(words)], [activations])

    def _scaled(self, word: Expr, held: int, products: Expr, scales: Expr, order: Sequence[int]) -> Expr:
        """Sums of groups' products times their scales, in fp32; `order` has a word of each lane's group."""

        def of_lanes(buffer: Buffer) -> Expr:
            return shuffle([load(buffer, [self.thread, 0, word], held)], order)

        if self.scratch.corrections is not None:
            products = products + of_lanes(self.scratch.corrections)
        if self.scratch.activation_scales is not None:
            scales = scales * of_lanes(self.scratch.activation_scales)
        return cast("float32", products) * scales

    def _prefetch(self, vector: Expr) -> None:
        """Prefetch each column's words, as many as a vector has."""
        far, word = self.isa.prefetches_far, vector * self.isa.lanes
        # If a cache line holds several vectors, each prefetches the lines of some of the columns.
        turns = max(1, LINE_WORDS // self.isa.lanes)
        for columns in self.columns:
            for column in columns[::turns]:
                turn = column if turns == 1 else column + vector % turns
                prefetch(self.buffers.weight, [turn, word + self.ahead], far=far)
                if far:
                    prefetch(self.buffers.weight, [turn, word + self.near])

    def _load_activations(self, word: Expr, held: int) -> list[list[Expr]]:
        """The activations of `held` words from `word` on, repeated to a full vector, by step and digit."""
        isa, place = self.isa, self.of.place_of_word

        def repeated(digit: int, step: int) -> Expr:
            activations = load(self.scratch.activations, [self.thread, 0, place(word, digit, step)], held)
            return T.bind(join([activations] * (isa.lanes // held)))

        return [[repeated(digit, step) for digit in range(isa.digits)] for step in range(isa.steps)]

    def _load_scales(self, columns: Sequence[Expr], word: Expr) -> Expr:
        """The columns' scales of a vector's groups, fp32: those of its first group, then of its second, ..."""
        group, groups = T.bind(word // self.buffers.words_per_group), self.isa.lanes // self.buffers.words_per_group
        loaded = [T.bind(load(self.buffers.scale, [column, group], groups)) for column in columns]
        order = [column * groups + i for i in range(groups) for column in range(len(columns))]
        return T.bind(cast("float32", shuffle(loaded, order)))
