"""Decode with a KN weight: a vector holds one word of each of several columns, which are adjacent in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.buffers import MatmulBuffers
from edge_transact.compiler.cpu.decode.base import Scratch
from edge_transact.compiler.cpu.decode.columns import DecodeColumns
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.vector import LINE_WORDS, Index, cast, load, prefetch

AHEAD_BYTES = 16 << 10
"""How far ahead of the block in use decode prefetches, to the L2 cache if the instruction set prefetches far."""

NEAR_BLOCKS = 2
"""How many blocks ahead of the one in use decode prefetches from the L2 to the L1 cache."""

STRIP_BYTES = 128 << 10
"""The most bytes of a thread's sums of a strip, in all rows, so that they stay in the L2 cache from group to group."""


class DecodeKN(DecodeColumns):
    """Multiplies one strip of columns after the other by the thread's groups.

    A strip's blocks, ordered by group, are divided evenly among the threads; a thread may begin and end within a group.
    """

    in_parts = True

    def __init__(
        self, number: int, buffers: MatmulBuffers, isa: InstructionSet, scratch: Scratch, threads: int
    ) -> None:
        super().__init__(number, buffers, isa, scratch, threads)
        block_sums = self.matmul.sections * self.columns * 4 * scratch.rows
        self.strip_blocks = T.bind(T.max(1, tirx.truncdiv(T.int32(STRIP_BYTES), block_sums)))
        self.blocks_ahead = AHEAD_BYTES // (self.matmul.sections * self.columns * self.matmul.group_bytes)

    def prefetch_first(self, thread: Expr) -> None:
        self._prefetch_first_of(_Strip(self, thread, T.int32(0)))

    def multiply(self, thread: Expr) -> None:
        # With one row, the first products are stored instead: clearing would wait for cache lines that other threads
        # have read last.
        if not self.one_row:
            self.clear(thread, T.int32(0), self.blocks)
        self.pack_activations(thread)
        with T.serial(0, tirx.truncdiv(self.blocks + (self.strip_blocks - 1), self.strip_blocks)) as number:
            strip = _Strip(self, thread, number)
            with T.If(number > 0), T.Then():
                self._prefetch_first_of(strip)
            if self.one_row:
                # A thread with less than a group computes nothing for some blocks.
                with T.If(strip.end - strip.first < strip.blocks), T.Then():
                    self.clear(thread, strip.first_block, strip.first_block + strip.blocks)
            self._multiply_strip(thread, strip)

    def groups(self, thread: Expr) -> tuple[Expr, Expr]:
        strip = _Strip(self, thread, T.int32(0))  # the others end no later
        return strip.first_group, strip.end_group

    def load_word(self, group: Expr, block: Expr, section: int, offset: Index, word: Index) -> Expr:
        column = self.column(block, section) + offset
        return load(self.buffers.weight, [group * self.buffers.words_per_group + word, column], self.isa.lanes)

    def load_scales(self, group: Expr, block: Expr, section: int, offset: Index) -> Expr:
        column = self.column(block, section) + offset
        return T.bind(cast("float32", load(self.buffers.scale, [group, column], self.isa.lanes)))

    def _multiply_strip(self, thread: Expr, strip: _Strip) -> None:
        groups_ahead = T.bind(tirx.truncdiv(T.int32(self.blocks_ahead), strip.blocks))
        blocks_ahead = T.bind(self.blocks_ahead - groups_ahead * strip.blocks)
        # In memory, because TVM's integer analysis would walk through all that they are computed from, at each use.
        ahead = T.alloc_buffer((2,), "int32")
        with strip.each_group(strip.end) as (group, first, end):
            start = self.load_start(thread, group)
            first_begun = strip.first_begun(group)
            # From this block on, the prefetched blocks belong to the next group.
            turn = T.bind(T.min(T.max(first, strip.first_block + strip.blocks - blocks_ahead), end))
            with T.serial(0, 2) as after:
                rows = T.bind(T.min(groups_ahead + after, strip.end_group - 1 - group) * self.matmul.sections)
                columns = T.bind((blocks_ahead - after * strip.blocks) * self.columns)
                T.buffer_store(ahead, rows * self.buffers.words_per_group * self.buffers.width + columns, [0])
                T.buffer_store(ahead, rows * self.buffers.width + columns, [1])
                begin = T.bind(T.if_then_else(after == 0, first, turn))
                with T.serial(begin, T.bind(T.if_then_else(after == 0, turn, end))) as block:
                    for section in range(self.matmul.sections):
                        self._prefetch(group, block, section, ahead[0], ahead[1])
                        # Several rows take so long to multiply that the L2 cache is fast enough.
                        if self.isa.prefetches_far and self.one_row:
                            self._prefetch_near(group, block, section)
                        self.accumulate(thread, group, block, section, start, begins=block < first_begun)

    def _prefetch_first_of(self, strip: _Strip) -> None:
        ahead = T.bind(T.min(strip.first + self.blocks_ahead, strip.end))
        with strip.each_group(ahead) as (group, first, end), T.serial(first, end) as block:
            for section in range(self.matmul.sections):
                self._prefetch(group, block, section, 0, 0)

    def _prefetch(self, group: Expr, block: Expr, section: int, words_ahead: Index, scales_ahead: Index) -> None:
        """Prefetch words and scales at these distances after those of a block in a group."""
        far, column = self.isa.prefetches_far, self.column(block, section)
        first, column_of_words = group * self.buffers.words_per_group, T.bind(column + words_ahead)
        for word, line in self._lines():
            prefetch(self.buffers.weight, [first + word, column_of_words + line], far=far)
        prefetch(self.buffers.scale, [group, column + scales_ahead], far=far)

    def _prefetch_near(self, group: Expr, block: Expr, section: int) -> None:
        """Prefetch words of the same group that the thread needs soon to the L1 cache."""
        column = self.column(block, section) + NEAR_BLOCKS * self.columns
        for word, line in self._lines():
            prefetch(self.buffers.weight, [group * self.buffers.words_per_group + word, column + line])

    def _lines(self) -> list[tuple[int, int]]:
        """The cache lines of a block's words of a group: word of the group, and column within the block."""
        return [
            (word, line) for word in range(self.buffers.words_per_group) for line in range(0, self.columns, LINE_WORDS)
        ]


class _Strip:
    """A thread's part of a strip: blocks, counted group by group, and groups; each `end` is after the last."""

    def __init__(self, of: DecodeKN, thread: Expr, number: Expr) -> None:
        self.first_block = T.bind(number * of.strip_blocks)
        self.blocks = T.bind(T.min(of.blocks - self.first_block, of.strip_blocks))
        all_blocks = T.bind(of.buffers.groups * self.blocks)
        self.first = T.bind(thread * all_blocks // of.threads)
        self.end = T.bind((thread + 1) * all_blocks // of.threads)
        # Not `//`: TVM would name values for it, two of them alike.
        self.first_group = T.bind(tirx.truncdiv(self.first, self.blocks))
        self.end_group = T.bind(tirx.truncdiv(self.end + (self.blocks - 1), self.blocks))

    def first_begun(self, group: Expr) -> Expr:
        """The first block whose sums the thread began before this group; it begins those of the blocks before."""
        return T.bind(self.first_block + T.min(self.first + self.blocks - group * self.blocks, self.blocks))

    @contextmanager
    def each_group(self, end: Expr) -> Iterator[tuple[Expr, Expr, Expr]]:
        """A loop over the groups up to block `end`: the group, the first of its blocks, and the one after the last."""
        with T.serial(self.first_group, tirx.truncdiv(end + (self.blocks - 1), self.blocks)) as group:
            before = T.bind(group * self.blocks)
            first, last = T.max(self.first - before, 0), T.min(end - before, self.blocks)
            yield group, T.bind(self.first_block + first), T.bind(self.first_block + last)
