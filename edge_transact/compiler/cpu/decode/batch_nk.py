"""Decode of several sequences with an NK weight, transposed in registers, a group at a time."""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.cpu.decode.columns import DecodeColumns
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.vector import LINE_WORDS, Index, cast, load, prefetch, store, transpose


class BatchNK(DecodeColumns):
    """Multiplies one block of columns after the other by all groups; holds a group's words and a block's scales."""

    words: Buffer
    scales: Buffer

    @classmethod
    def batch_vectors(cls, isa: InstructionSet) -> int:
        return isa.batch_vectors_nk or isa.batch_vectors

    def prefetch_first(self, thread: Expr) -> None:
        first, _ = self.share(thread)
        with T.serial(0, self.buffers.groups) as group:
            for section in range(self.matmul.sections):
                self._prefetch(first, group, section)

    def multiply(self, thread: Expr) -> None:
        first, end = self.share(thread)
        self.clear(thread, first, end)
        self.pack_activations(thread)
        self.words = T.alloc_buffer((self.buffers.words_per_group, self.columns), "uint32")
        self.scales = T.alloc_buffer((self.buffers.groups, self.columns), "float32")
        with T.serial(first, end) as block:
            for section in range(self.matmul.sections):
                self._load_scales(self.column(block, section))
                with T.serial(0, self.buffers.groups) as group:
                    self._prefetch(block + 1, group, section)
                    self._transpose(group, block, section)
                    self.accumulate(thread, group, block, section, self.load_start(thread, group))

    def load_word(self, group: Expr, block: Expr, section: int, offset: Index, word: Index) -> Expr:
        return load(self.words, [word, offset], self.isa.lanes)

    def load_scales(self, group: Expr, block: Expr, section: int, offset: Index) -> Expr:
        return T.bind(load(self.scales, [group, offset], self.isa.lanes))

    def _transpose(self, group: Expr, block: Expr, section: int) -> None:
        first, lanes, words = self.column(block, section), self.isa.lanes, self.buffers.words_per_group
        for offset in range(0, self.columns, lanes):
            at = [first + (offset + i) for i in range(lanes)]
            columns = [T.bind(load(self.buffers.weight, [column, group * words], words)) for column in at]
            for word, vector in enumerate(transpose(columns)):
                store(self.words, vector, [word, offset])

    def _load_scales(self, first: Expr) -> None:
        """Load the scales of a block's columns from `first` on: four groups at a time, then one by one."""
        scale, lanes, groups = self.buffers.scale, self.isa.lanes, self.buffers.groups
        with T.serial(0, groups // 4) as four:
            for offset in range(0, self.columns, lanes):
                columns = [
                    T.bind(cast("float32", load(scale, [first + (offset + i), four * 4], 4))) for i in range(lanes)
                ]
                for i, scales in enumerate(transpose(columns)):
                    store(self.scales, scales, [four * 4 + i, offset])
        with T.serial(groups // 4 * 4, groups) as group, T.serial(0, self.columns) as i:
            T.buffer_store(self.scales, cast("float32", scale[first + i, group]), [group, i])

    def _prefetch(self, block: Expr, group: Expr, section: int) -> None:
        """Prefetch the `group`-th part of a block, whose columns are contiguous in memory."""
        lines = self.columns * self.buffers.words_per_group // LINE_WORDS
        for line in range(lines):
            place = [self.column(block, section), (group * lines + line) * LINE_WORDS]
            prefetch(self.buffers.weight, place, far=self.isa.prefetches_far)
