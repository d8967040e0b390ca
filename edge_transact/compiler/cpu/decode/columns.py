"""Decode matmuls whose vectors hold the same word of adjacent columns."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.decode.base import DecodeMatmul
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.vector import Index, lanes_of, load, scalar_dtype, splat, store

_Products: TypeAlias = tuple[Expr, Expr]
"""The index in a thread's sums that products belong to, and the products: fp32 lanes."""


class DecodeColumns(DecodeMatmul):
    """Adds the products of a group and a block of columns to sums in memory, which should be in a cache."""

    least_columns = 16

    @abstractmethod
    def load_word(self, group: Expr, block: Expr, section: int, offset: Index, word: Index) -> Expr:
        """A word of a group of the vector of columns at `offset` in a block: uint32 lanes."""

    @abstractmethod
    def load_scales(self, group: Expr, block: Expr, section: int, offset: Index) -> Expr:
        """The scales of a group of the vector of columns at `offset` in a block: fp32 lanes."""

    def place(self, group: Expr, digit: int, step: int) -> Expr:
        return ((group * self.isa.digits + digit) * self.isa.steps + step) * self.buffers.words_per_group

    def column(self, block: Expr, section: int) -> Expr:
        """The first column of a block in a section."""
        return self.first_column(block) + section * self.buffers.width

    def clear(self, thread: Expr, first: Expr, end: Expr) -> None:
        """Set a thread's sums of the blocks from `first` to before `end` to zero."""
        with self.each(self.scratch.rows) as row, T.serial(first, end) as block:
            for section in range(self.matmul.sections):
                store(self.sums, splat(T.float32(0), self.columns), [thread, self.sums_of(row, block, section)])

    def load_start(self, thread: Expr, group: Expr) -> Callable[[Expr], Expr]:
        """A function from a row to the start of its accumulators of a group: its zero-point correction, if any."""
        corrections, lanes = self.scratch.corrections, self.isa.lanes

        def start(row: Expr) -> Expr:
            if corrections is None:
                return splat(tirx.const(0, self.isa.accumulator_dtype), lanes)
            return splat(corrections[thread, row, group], lanes)

        if not self.one_row:
            return start
        of_one_row = T.bind(start(T.int32(0)))  # stays in a register
        return lambda row: of_one_row

    def accumulate(
        self,
        thread: Expr,
        group: Expr,
        block: Expr,
        section: int,
        start: Callable[[Expr], Expr],
        *,
        begins: Expr | bool = False,
    ) -> None:
        """Add a group's products to the sums of a block, in all rows.

        `start` is `load_start` of the group. If `begins` (a bool), these are the first products of a single row and
        replace its sums; those of several rows must be cleared before, since a tile has no registers left to wait.
        """
        lanes = self.isa.lanes
        if self.one_row:
            products = [
                self._multiply_row(thread, group, block, section, offset, start)
                for offset in range(0, self.columns, lanes)
            ]
            with T.If(begins):
                with T.Then():
                    for place, vector in products:
                        store(self.sums, vector, [thread, place])
                with T.Else():
                    self._add_to_sums(thread, products)
            return
        tile_columns = min(self.columns, self.batch_vectors(self.isa) * lanes)
        with T.serial(0, self.columns // tile_columns) as turn:
            first = T.bind(turn * tile_columns)
            offsets = [first + offset for offset in range(0, tile_columns, lanes)]
            scales = [self.load_scales(group, block, section, offset) for offset in offsets]
            vectors = list(zip(offsets, scales, strict=True))
            self.for_each_tile(partial(self._accumulate_tile, thread, group, block, section, vectors, start))

    def _multiply_row(
        self, thread: Expr, group: Expr, block: Expr, section: int, offset: int, start: Callable[[Expr], Expr]
    ) -> _Products:
        """A group's products for one row's sums of the vector of columns at `offset` in a block."""
        row, each = T.int32(0), range(self.buffers.words_per_group)
        words = [T.bind(self.load_word(group, block, section, offset, word)) for word in each]
        activations = [
            [self._load_activations(thread, row, group, step, word) for step in range(self.isa.steps)] for word in each
        ]
        products = self.isa.dot(start(row), words, activations)
        scales = self.load_scales(group, block, section, offset)
        return self.sums_of(row, block, section) + offset, self._scaled(thread, row, group, products, scales)

    def _accumulate_tile(
        self,
        thread: Expr,
        group: Expr,
        block: Expr,
        section: int,
        vectors: list[tuple[Expr, Expr]],
        start: Callable[[Expr], Expr],
        rows: list[Expr],
    ) -> None:
        """Add a group's products to the sums of some rows and vectors of columns (offsets in a block)."""
        tile = _Tile(self.isa, [T.bind(start(row)) for row in rows], len(vectors))
        # Unrolled, LLVM would hoist so many loads that most of them are spilled.
        with T.serial(0, self.buffers.words_per_group) as word:
            words = [T.bind(self.load_word(group, block, section, offset, word)) for offset, _ in vectors]
            for step in range(self.isa.steps):
                weights = [T.bind(self.isa.unpack(vector, step)) for vector in words]
                for r, row in enumerate(rows):
                    digits = [T.bind(digit) for digit in self._load_activations(thread, row, group, step, word)]
                    for v in range(len(vectors)):
                        tile.add(r, v, weights[v], digits, step)
        for (r, row), (v, (offset, scales)) in itertools.product(enumerate(rows), enumerate(vectors)):
            products = self._scaled(thread, row, group, tile.end(r, v), scales)
            self._add_to_sums(thread, [(self.sums_of(row, block, section) + offset, products)])

    def _scaled(self, thread: Expr, row: Expr, group: Expr, products: Expr, scales: Expr) -> Expr:
        """A group's products, fp32 lanes, times the scales of weights and activations."""
        if self.scratch.activation_scales is not None:
            scales = scales * splat(self.scratch.activation_scales[thread, row, group], lanes_of(scales))
        return T.bind(products * scales)

    def _add_to_sums(self, thread: Expr, products: Sequence[_Products]) -> None:
        for place, vector in products:
            store(self.sums, load(self.sums, [thread, place], lanes_of(vector)) + vector, [thread, place])

    def _load_activations(self, thread: Expr, row: Expr, group: Expr, step: int, word: Index) -> list[Expr]:
        """A word's activations of a step, by digit, each in every lane."""
        return [
            splat(self.scratch.activations[thread, row, self.place(group, digit, step) + word], self.isa.lanes)
            for digit in range(self.isa.digits)
        ]


class _Tile:
    """The accumulators of rows by vectors of columns, in registers; each row's sums begin at one of `starts`."""

    def __init__(self, isa: InstructionSet, starts: Sequence[Expr], vectors: int) -> None:
        self.isa, self.starts = isa, starts
        begin = [isa.begin(start) for start in starts]
        self.turns, self.lanes = range(len(begin[0])), lanes_of(begin[0][0])
        # One for each row: TVM allocates buffers of 1 KiB and more at run time, which LLVM doesn't keep in registers.
        shape = (vectors, len(begin[0]), self.lanes)
        self.accumulators = [T.alloc_buffer(shape, scalar_dtype(begin[0][0])) for _ in starts]
        for r, v in itertools.product(range(len(starts)), range(vectors)):
            self._store(r, v, begin[r])

    def add(self, r: int, v: int, weights: Expr, digits: Sequence[Expr], step: int) -> None:
        """Add the products of a step's weights of vector `v` and the digits of row `r`."""
        self._store(r, v, self.isa.add(self._load(r, v), weights, digits, step))

    def end(self, r: int, v: int) -> Expr:
        """The sum of all products of row `r` and vector `v`: fp32 lanes."""
        return self.isa.end(self._load(r, v), self.starts[r])

    def _load(self, r: int, v: int) -> list[Expr]:
        return [load(self.accumulators[r], [v, turn, 0], self.lanes) for turn in self.turns]

    def _store(self, r: int, v: int, values: Sequence[Expr]) -> None:
        for turn, value in enumerate(values):
            store(self.accumulators[r], value, [v, turn, 0])
