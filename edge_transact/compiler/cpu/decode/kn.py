"""Decode with a KN weight: adjacent columns are adjacent in memory, so a vector holds one word of each column."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.decode.columns import DecodeColumns
from edge_transact.compiler.vector import Index, cast, load, prefetch
from edge_transact.quantization import WORDS_PER_GROUP

FAR_BYTES = 16 << 10
"""How far ahead of the group in use decode prefetches to the L2 cache: so many bytes of groups, and one at least."""

NEAR_BLOCKS = 2
"""How many blocks ahead of the one in use decode prefetches to the L1 cache, if the L2 cache has them."""

STRIP_COLUMNS = 4096
"""Columns that a thread takes through its groups before it goes on: a row's sums of them, 16 KiB, stay in the L1 cache.
"""

NEAR_STRIP_COLUMNS = 1024
"""The same where weights are prefetched to the L1 cache, which has room for a group of so many columns, 18 KB, beside
the one in use.
"""


class DecodeKN(DecodeColumns):
    """Takes a strip of columns after the other through the thread's groups.

    A strip's blocks, those of one group after those of the other, are divided among the threads. So each reads memory
    in order, and has as much to do as the others, though it may begin and end within a group.
    """

    in_parts = True

    def prefetch_first(self, thread: Expr) -> None:
        strip = _Strip(self, thread, T.int32(0))
        ahead = T.bind(T.min(strip.first + self._groups_ahead() * strip.blocks, strip.end))
        with strip.each_group(ahead) as (group, first, end), T.serial(first, end) as block:
            for section in range(self.matmul.sections):
                self._prefetch(group, block, section)

    def multiply(self, thread: Expr) -> None:
        self.clear(thread, T.int32(0), self.blocks)
        self.pack_activations(thread)
        ahead = self._groups_ahead()
        # In memory, because TVM's integer analysis would walk through all that they are computed from, at each use.
        far = T.alloc_buffer((2,), "int32")
        with T.serial(0, (self.blocks + (self.strip_blocks - 1)) // self.strip_blocks) as number:
            strip = _Strip(self, thread, number)
            with strip.each_group(strip.end) as (group, first, end):
                # After a strip's last group come the first ones of the next strip; after the last strip's comes
                # nothing new.
                later = T.bind(group + ahead - strip.end_group)
                is_next = T.bind(tirx.all(later >= 0, strip.first_block + strip.blocks < self.blocks))
                same_strip = T.min(group + ahead, strip.end_group - 1)
                T.buffer_store(far, T.if_then_else(is_next, strip.first_group + later, same_strip), [0])
                T.buffer_store(far, T.if_then_else(is_next, self.strip_blocks, 0), [1])
                start = self.load_start(thread, group)
                with T.serial(first, end) as block:
                    far_block = T.bind(block + far[1])
                    for section in range(self.matmul.sections):
                        self._prefetch(far[0], far_block, section)
                        # Several rows take so long to multiply that the L2 cache is near enough.
                        if self.isa.prefetches_far and self.one_row:
                            self._prefetch_near(group, block, section)
                        self.accumulate(thread, group, block, section, start)

    @property
    def strip_blocks(self) -> int:
        """The blocks of a strip; the last strip may have fewer."""
        strip_columns = STRIP_COLUMNS if self.isa.prefetches_far else NEAR_STRIP_COLUMNS
        return strip_columns // (self.matmul.sections * self.columns)

    def groups(self, thread: Expr) -> tuple[Expr, Expr]:
        strip = _Strip(self, thread, T.int32(0))  # the others end in the same groups, or earlier
        return strip.first_group, strip.end_group

    def _groups_ahead(self) -> Expr:
        """How many groups ahead of the one in use weights are prefetched."""
        if not self.isa.prefetches_far:
            return T.int32(1)
        block_bytes = self.matmul.sections * self.columns * self.matmul.group_bytes
        group_bytes = T.min(self.blocks, self.strip_blocks) * block_bytes
        return T.bind(T.max(1, tirx.truncdiv(T.int32(FAR_BYTES), group_bytes)))

    def load_word(self, group: Expr, block: Expr, section: int, offset: Index, word: Index) -> Expr:
        column = self.column(block, section) + offset
        return load(self.buffers.weight, [group * WORDS_PER_GROUP + word, column], self.isa.lanes)

    def load_scales(self, group: Expr, block: Expr, section: int, offset: Index) -> Expr:
        column = self.column(block, section) + offset
        return T.bind(cast("float32", load(self.buffers.scale, [group, column], self.isa.lanes)))

    def _prefetch(self, group: Expr, block: Expr, section: int) -> None:
        """Prefetch a block's part of a group."""
        far, column = self.isa.prefetches_far, self.column(block, section)
        for word in range(WORDS_PER_GROUP):
            prefetch(self.buffers.weight, [group * WORDS_PER_GROUP + word, column], far=far)
        prefetch(self.buffers.scale, [group, column], far=far)

    def _prefetch_near(self, group: Expr, block: Expr, section: int) -> None:
        """Prefetch to the L1 cache what the thread needs soon, of the same group."""
        column = self.column(block, section) + NEAR_BLOCKS * self.columns
        for word in range(WORDS_PER_GROUP):
            prefetch(self.buffers.weight, [group * WORDS_PER_GROUP + word, column])


class _Strip:
    """A thread's part of a strip.

    Args:
        of: The matmul.
        thread: The thread.
        number: The strip's, int32.

    Attributes:
        first_block: The strip's first block.
        blocks: How many it has.
        first, end: The first of the thread's blocks and the one after its last, counted group by group.
        first_group, end_group: The first of its groups, and the one after its last.
    """

    def __init__(self, of: DecodeKN, thread: Expr, number: Expr) -> None:
        self.first_block = T.bind(number * of.strip_blocks)
        self.blocks = T.bind(T.min(of.blocks - self.first_block, of.strip_blocks))
        all_blocks = T.bind(of.buffers.groups * self.blocks)
        self.first = T.bind(thread * all_blocks // of.threads)
        self.end = T.bind((thread + 1) * all_blocks // of.threads)
        # Not `//`, which TVM computes from values that it names, and gives two of them the same name.
        self.first_group = T.bind(tirx.truncdiv(self.first, self.blocks))
        self.end_group = T.bind(tirx.truncdiv(self.end + (self.blocks - 1), self.blocks))

    @contextmanager
    def each_group(self, end: Expr) -> Iterator[tuple[Expr, Expr, Expr]]:
        """A loop over the groups up to block `end`: the group, the first of its blocks, and the one after the last."""
        with T.serial(self.first_group, tirx.truncdiv(end + (self.blocks - 1), self.blocks)) as group:
            before = T.bind(group * self.blocks)
            first, last = T.max(self.first - before, 0), T.min(end - before, self.blocks)
            yield group, T.bind(self.first_block + first), T.bind(self.first_block + last)
