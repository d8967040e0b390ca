"""Decode with a KN weight: adjacent columns are adjacent in memory, so a vector holds one word of each column."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.decode.columns import DecodeColumns
from edge_transact.compiler.vector import Index, cast, load, prefetch
from edge_transact.quantization import WORDS_PER_GROUP

FAR_GROUPS, FAR_BYTES = 2, 16 << 10
"""How far ahead of the group in use decode prefetches to the L2 cache: so many groups, or more if they are small."""

NEAR_BLOCKS = 2
"""How many blocks ahead of the one in use decode prefetches to the L1 cache, if the L2 cache has them."""

STRIP_COLUMNS = 2048
"""Columns that a thread takes through all groups before it goes on: a row's sums of them, 8 KiB, stay in the L1
cache."""


class DecodeKN(DecodeColumns):
    """Takes a strip of columns after the other through all groups."""

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
        self.clear(first, end)
        self.pack_activations(thread)
        ahead = self._groups_ahead(first, end)
        groups, blocks = self.buffers.groups, self._strip_blocks
        # In memory, because TVM's integer analysis would walk through all that they are computed from, at each use.
        far = T.alloc_buffer((2,), "int32", scope="local")
        with T.serial(0, (end - first + (blocks - 1)) // blocks) as strip, T.serial(0, groups) as group:
            strip_first = T.bind(first + strip * blocks)
            strip_end = T.bind(T.min(strip_first + blocks, end))
            # After a strip's last group come the first ones of the next strip.
            is_next = T.Cast("int32", tirx.all(group + ahead >= groups, strip_end < end))
            T.buffer_store(far, group + ahead - is_next * groups, [0])
            T.buffer_store(far, is_next * blocks, [1])
            start = self.load_start(thread, group)
            with T.serial(strip_first, strip_end) as block:
                far_block = T.bind(block + far[1])
                for section in range(self.matmul.sections):
                    self._prefetch(far[0], far_block, section)
                    if self.isa.prefetches_far:
                        self._prefetch_near(group, block, section)
                    self.accumulate(thread, group, block, section, start)
        self.finish(first, end)

    def load_weights(self, group: Expr, block: Expr, section: int, offset: Index) -> tuple[list[Expr], Expr]:
        lanes, weight, column = self.isa.lanes, self.buffers.weight, T.bind(self.column(block, section) + offset)
        words = [
            T.bind(load(weight, [group * WORDS_PER_GROUP + word, column], lanes)) for word in range(WORDS_PER_GROUP)
        ]
        return words, T.bind(cast("float32", load(self.buffers.scale, [group, column], lanes)))

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
