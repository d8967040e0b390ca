"""Decode with a KN weight: adjacent columns are adjacent in memory, so a vector holds one word of each column."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.cpu.decode.base import DecodeMatmul
from edge_transact.compiler.epilogue import finish
from edge_transact.compiler.vector import cast, exp, load, prefetch, splat, store, sum_lanes
from edge_transact.quantization import WORDS_PER_GROUP

FAR_GROUPS, FAR_BYTES = 2, 16 << 10
"""How far ahead of the group in use decode prefetches to the L2 cache: so many groups, or more if they are small."""

NEAR_BLOCKS = 2
"""How many blocks ahead of the one in use decode prefetches to the L1 cache, if the L2 cache has them."""

STRIP_COLUMNS = 2048
"""Columns that a thread takes through all groups before it goes on: a row's sums of them, 8 KiB, stay in the L1
cache."""


class DecodeKN(DecodeMatmul):
    """Goes through the groups; for each, adds the products of a strip of columns to sums in the L1 cache."""

    columns = 16

    def prefetch_first(self, thread: Expr) -> None:
        first, end = self.share(thread)
        strip_end = T.min(first + self._strip_blocks, end)
        with T.serial(0, self._groups_ahead(first, end)) as group, T.serial(first, strip_end) as block:
            for section in range(self.matmul.sections):
                self._prefetch(group, block, section)

    @property
    def _strip_blocks(self) -> int:
        """The blocks of a strip; a thread's last strip may have fewer."""
        return STRIP_COLUMNS // (self.matmul.sections * self.columns)

    def _groups_ahead(self, first: Expr, end: Expr) -> Expr:
        """How many groups ahead of the one in use a strip's weights are prefetched."""
        if not self.isa.prefetches_far:
            return T.int32(1)
        blocks = T.min(end - first, self._strip_blocks)
        group_bytes = blocks * (self.matmul.sections * self.columns * self.matmul.group_bytes)
        return T.bind(T.max(FAR_GROUPS, FAR_BYTES // T.max(group_bytes, 1)))

    def multiply(self, thread: Expr) -> None:
        first, end = self.share(thread)
        self._clear(first, end)
        self.pack_activations(thread)
        ahead = self._groups_ahead(first, end)
        starts = None if self.one_row else T.alloc_buffer((self.scratch.rows,), self.isa.accumulator_dtype)
        groups, blocks = self.buffers.groups, self._strip_blocks
        with T.serial(0, (end - first + (blocks - 1)) // blocks) as strip, T.serial(0, groups) as group:
            strip_first = T.bind(first + strip * blocks)
            strip_end = T.bind(T.min(strip_first + blocks, end))
            # After a strip's last group come the first ones of the next strip.
            is_next = T.bind(T.Cast("int32", tirx.all(group + ahead >= groups, strip_end < end)))
            far_group, far_blocks = T.bind(group + ahead - is_next * groups), T.bind(is_next * blocks)
            start = self._load_start(thread, group, starts)
            with T.serial(strip_first, strip_end) as block:
                for section in range(self.matmul.sections):
                    self._prefetch(far_group, block + far_blocks, section)
                    if self.isa.prefetches_far:
                        self._prefetch_near(group, block, section)
                    for offset in range(0, self.columns, self.isa.lanes):
                        self.for_each_tile(partial(self._accumulate, thread, group, block, section, offset, start))
        self._store(first, end)

    def place(self, group: Expr, digit: int, step: int) -> Expr:
        return ((group * self.isa.digits + digit) * self.isa.steps + step) * WORDS_PER_GROUP

    def _column(self, block: Expr, section: int) -> Expr:
        return self.first_column(block) + section * self.buffers.width

    def _prefetch(self, group: Expr, block: Expr, section: int) -> None:
        """Prefetch a block's part of a group."""
        far, column = self.isa.prefetches_far, self._column(block, section)
        for word in range(WORDS_PER_GROUP):
            prefetch(self.buffers.weight, [group * WORDS_PER_GROUP + word, column], far=far)
        prefetch(self.buffers.scale, [group, column], far=far)

    def _prefetch_near(self, group: Expr, block: Expr, section: int) -> None:
        """Prefetch to the L1 cache what the thread needs soon, of the same group."""
        column = self._column(block, section) + NEAR_BLOCKS * self.columns
        for word in range(WORDS_PER_GROUP):
            prefetch(self.buffers.weight, [group * WORDS_PER_GROUP + word, column])

    def _clear(self, first: Expr, end: Expr) -> None:
        with self.each(self.scratch.rows) as row, T.serial(first, end) as block:
            for section in range(self.matmul.sections):
                store(self.scratch.sums, splat(T.float32(0), self.columns), [self.sums_of(row, block, section)])

    def _load_start(self, thread: Expr, group: Expr, starts: Buffer | None) -> Callable[[Expr], Expr]:
        """What the accumulators of a group start from in a row: its zero-point correction, the same in every lane.

        Args:
            thread: The thread.
            group: The group.
            starts: Memory for all rows' corrections; `None` for one row, whose correction stays in a register.
        """
        zero, corrections = tirx.const(0, self.isa.accumulator_dtype), self.scratch.corrections
        if corrections is None:
            start = T.bind(splat(zero, self.isa.lanes))
            return lambda row: start

        def correction(row: Expr) -> Expr:
            of_words = load(corrections, [thread, row, group * WORDS_PER_GROUP], WORDS_PER_GROUP)
            return sum_lanes([T.bind(of_words)])

        if starts is None:
            start = T.bind(splat(correction(T.int32(0)), self.isa.lanes))
            return lambda row: start
        with T.serial(0, self.scratch.rows) as row:
            T.buffer_store(starts, correction(row), [row])
        return lambda row: splat(starts[row], self.isa.lanes)

    def _load_activations(self, thread: Expr, row: Expr, group: Expr, word: int) -> list[list[Expr]]:
        """A word's activations by step and digit, each in every lane."""
        return [
            [
                splat(self.scratch.activations[thread, row, self.place(group, digit, step) + word], self.isa.lanes)
                for digit in range(self.isa.digits)
            ]
            for step in range(self.isa.steps)
        ]

    def _accumulate(
        self,
        thread: Expr,
        group: Expr,
        block: Expr,
        section: int,
        offset: int,
        start: Callable[[Expr], Expr],
        rows: list[Expr],
    ) -> None:
        """Add a group's products to some rows' sums of one vector of columns."""
        isa, buffers, scratch = self.isa, self.buffers, self.scratch
        column = T.bind(self._column(block, section) + offset)
        words = [
            T.bind(load(buffers.weight, [group * WORDS_PER_GROUP + word, column], isa.lanes))
            for word in range(WORDS_PER_GROUP)
        ]
        weight_scale = cast("float32", load(buffers.scale, [group, column], isa.lanes))
        if not self.one_row:
            weight_scale = T.bind(weight_scale)
        activations = [
            [self._load_activations(thread, row, group, word) for word in range(WORDS_PER_GROUP)] for row in rows
        ]
        products = isa.dot([start(row) for row in rows], words, activations)
        for row, products_of_row in zip(rows, products, strict=True):
            scale = weight_scale
            if scratch.activation_scales is not None:
                scale = scale * splat(scratch.activation_scales[thread, row, group], isa.lanes)
            place = [self.sums_of(row, block, section) + offset]
            total = load(scratch.sums, place, isa.lanes) + products_of_row * scale
            store(scratch.sums, total, place)

    def _store(self, first: Expr, end: Expr) -> None:
        sections = range(self.matmul.sections)
        with self.each(self.buffers.rows) as row, T.serial(first, end) as block:
            sums = [T.bind(load(self.scratch.sums, [self.sums_of(row, block, s)], self.columns)) for s in sections]
            finish(self.buffers, row, T.bind(self._column(block, 0)), sums, exp)
