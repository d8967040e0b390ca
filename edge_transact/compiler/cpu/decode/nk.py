"""Decode of one row with an NK weight: a column's words are adjacent in memory, so a vector holds words along K."""

from __future__ import annotations

from collections.abc import Sequence

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
from edge_transact.quantization import WORDS_PER_GROUP

AHEAD_WORDS = 4096
"""How far ahead of the words in use decode prefetches: half of a small L1 cache."""

HEAD_START_BYTES = 32 << 10
"""Weights that the calling thread reads more than the others, which start a microsecond later."""

NEAR_WORDS = 576
"""How far ahead of the words in use decode prefetches to the L1 cache, if the L2 cache has them."""


class DecodeNK(DecodeMatmul):
    """Takes a few columns (rows of the weight) at a time, with their accumulators in registers."""

    columns = 4
    corrects_words = True
    padded_words: Expr

    def share(self, thread: Expr) -> tuple[Expr, Expr]:
        if self.number > 0:
            return super().share(thread)
        block_bytes = self.buffers.groups * (self.matmul.sections * self.columns * self.matmul.group_bytes)
        extra = T.bind(T.min(self.blocks, HEAD_START_BYTES // block_bytes))
        equal = T.bind(self.blocks - extra)
        first = T.if_then_else(thread == 0, 0, extra + thread * equal // self.threads)
        return T.bind(first), T.bind(extra + (thread + 1) * equal // self.threads)

    def prefetch_first(self, thread: Expr) -> None:
        first, _ = self.share(thread)
        for section in range(self.matmul.sections):
            with T.serial(0, AHEAD_WORDS // LINE_WORDS) as line:
                row = first * self.columns + section * self.buffers.width
                prefetch(self.buffers.weight, [row, line * LINE_WORDS], far=self.isa.prefetches_far)

    def multiply(self, thread: Expr) -> None:
        lanes, sections, words = self.isa.lanes, self.matmul.sections, self.buffers.words
        self.padded_words = T.bind(padded_words(self.buffers, self.isa))
        # The rows of a tile are read concurrently, and a short row ends before a large distance pays.
        ahead = T.bind(T.if_then_else(words < AHEAD_WORDS // self.columns, AHEAD_WORDS, AHEAD_WORDS // self.columns))
        first, end = self.share(thread)
        self.pack_activations(thread)
        accumulators = T.alloc_buffer((sections * self.columns, lanes), "float32")
        with T.serial(first, end) as block:
            self._multiply_block(thread, block, ahead, accumulators)

    def _multiply_block(self, thread: Expr, block: Expr, ahead: Expr, accumulators: Buffer) -> None:
        """Compute the sums of a block's columns."""
        lanes, words, together = self.isa.lanes, self.buffers.words, self.isa.vectors_together * self.isa.lanes
        columns = _Columns(self, thread, T.bind(self.first_column(block)), ahead, accumulators)
        columns.clear()
        full = T.bind(words // together * together)
        with T.serial(0, words // together) as turn:
            columns.accumulate(turn * together, together)
        if self.isa.vectors_together > 1:
            with T.serial(0, (words - full) // lanes) as vector:
                columns.accumulate(T.bind(full + vector * lanes), lanes)
        columns.store(block, T.bind(words // lanes * lanes))

    def place(self, group: Expr, digit: int, step: int) -> Expr:
        return self.place_of_word(group * WORDS_PER_GROUP, digit, step)

    def place_of_word(self, word: Expr, digit: int, step: int) -> Expr:
        """Where in a row of `Scratch.activations` those of a word are; its later words follow."""
        return (digit * self.isa.steps + step) * self.padded_words + word


class _Columns:
    """A block's columns, from all sections: each with one vector of accumulators.

    Args:
        of: The matmul.
        thread: The thread that computes it.
        first: The first column, in the first section.
        ahead: How many words ahead it prefetches.
        accumulators: fp32 ``[columns, lanes]``.
    """

    def __init__(self, of: DecodeNK, thread: Expr, first: Expr, ahead: Expr, accumulators: Buffer) -> None:
        self.of, self.isa, self.buffers, self.scratch = of, of.isa, of.buffers, of.scratch
        self.thread, self.ahead, self.accumulators = thread, ahead, accumulators
        sections = range(of.matmul.sections)
        self.columns = [first + section * self.buffers.width + i for section in sections for i in range(of.columns)]

    def clear(self) -> None:
        """Set the accumulators to zero."""
        for i in range(len(self.columns)):
            store(self.accumulators, splat(T.float32(0), self.isa.lanes), [i, 0])

    def accumulate(self, word: Expr, held: int) -> None:
        """Add the products of `held` words from `word` on: a multiple of a vector, or a half, a fourth, ... of one.

        A vector holds words of one column, or that many of as many columns as fill it.
        """
        isa, lanes, scratch = self.isa, self.isa.lanes, self.scratch
        self._prefetch(word, held)
        of_column = min(held, lanes)
        together = lanes // of_column
        vectors = [self.columns[i : i + together] for i in range(0, len(self.columns), together)]
        scales = [[self._load_scales(column, word, held) for column in vector] for vector in vectors]
        for first in range(0, held, lanes):
            at, start = word + first if first else word, splat(T.float32(0), lanes)
            words = [
                T.bind(join([load(self.buffers.weight, [column, at], of_column) for column in vector]))
                for vector in vectors
            ]
            activations = self._load_activations(at, of_column)
            if scratch.corrections is not None:
                start = T.bind(self._repeat(load(scratch.corrections, [self.thread, 0, at], of_column)))
            products = [T.bind(isa.dot(start, [vector], [activations])) for vector in words]
            for i, of_vector in enumerate(scales):
                scale = self._spread_scales([self._scaled(each, word, held) for each in of_vector], first, of_column)
                store(self.accumulators, load(self.accumulators, [i, 0], lanes) + products[i] * scale, [i, 0])

    def store(self, block: Expr, word: Expr) -> None:
        """Store the sum of each column to the block's sums, with the products of the words from `word` on.

        These are fewer than a full vector. When the halves of the columns' accumulators have been added, those of two
        columns fill a vector, and so do that many words of both. The same goes for halves of these.
        """
        vectors, held = self._load_accumulators(len(self.columns)), self.isa.lanes
        while held > WORDS_PER_GROUP:
            vectors = add_halves(vectors, held)
            held //= 2
            for i, vector in enumerate(vectors):
                store(self.accumulators, vector, [i, 0])
            with T.If(T.bitwise_and(self.buffers.words, held) != 0), T.Then():
                self.accumulate(T.bind(word), held)
            word = word + T.bitwise_and(self.buffers.words, held)
            vectors = self._load_accumulators(len(vectors))
        of_section = len(vectors) // self.of.matmul.sections
        for section in range(self.of.matmul.sections):
            sums = sum_lanes(vectors[section * of_section : (section + 1) * of_section], held)
            store(self.of.sums, sums, [self.thread, self.of.sums_of(T.int32(0), block, section)])

    def _load_accumulators(self, count: int) -> list[Expr]:
        """The first `count` vectors of accumulators."""
        return [T.bind(load(self.accumulators, [i, 0], self.isa.lanes)) for i in range(count)]

    def _repeat(self, vector: Expr) -> Expr:
        """A vector as often as it fills a full one."""
        return join([vector] * (self.isa.lanes // lanes_of(vector)))

    def _prefetch(self, word: Expr, held: int) -> None:
        """Prefetch each column's words, as many as are in use."""
        far = self.isa.prefetches_far
        for line in range(0, held, LINE_WORDS):
            # Where a cache line holds several vectors, each iteration prefetches the lines of some of the columns.
            turns = max(1, LINE_WORDS // held)
            for column in self.columns[::turns]:
                turn = column if turns == 1 else column + word // held % turns
                prefetch(self.buffers.weight, [turn, word + (self.ahead + line)], far=far)
                if far:
                    prefetch(self.buffers.weight, [turn, word + (NEAR_WORDS + line)])

    def _load_activations(self, word: Expr, held: int) -> list[list[Expr]]:
        """The activations of `held` words from `word` on, by step and digit."""
        isa, place = self.isa, self.of.place_of_word
        return [
            [
                T.bind(self._repeat(load(self.scratch.activations, [self.thread, 0, place(word, digit, step)], held)))
                for digit in range(isa.digits)
            ]
            for step in range(isa.steps)
        ]

    def _load_scales(self, column: Expr, word: Expr, held: int) -> Expr:
        """A column's scales of the groups of `held` words, fp32."""
        group, groups = word // WORDS_PER_GROUP, held // WORDS_PER_GROUP
        return T.bind(cast("float32", load(self.buffers.scale, [column, group], groups)))

    def _scaled(self, scales: Expr, word: Expr, held: int) -> Expr:
        """A column's scales times those of the activations.

        For each vector again: multiplied once for all of them, before the first, decode with AVX-VNNI takes a fifth
        longer.
        """
        if self.scratch.activation_scales is None:
            return scales
        group, groups = word // WORDS_PER_GROUP, held // WORDS_PER_GROUP
        return T.bind(scales * load(self.scratch.activation_scales, [self.thread, 0, group], groups))

    def _spread_scales(self, scales: Sequence[Expr], first: int, held: int) -> Expr:
        """The scale of each lane's products: those of `held` words of each column, from word `first` on."""
        groups = lanes_of(scales[0])
        words = [divmod(lane, held) for lane in range(self.isa.lanes)]
        return shuffle(scales, [column * groups + (first + word) // WORDS_PER_GROUP for column, word in words])
