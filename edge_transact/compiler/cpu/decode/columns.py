"""What decode matmuls share whose vectors hold the same word of adjacent columns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.decode.base import DecodeMatmul
from edge_transact.compiler.vector import Index, load, splat, store
from edge_transact.quantization import WORDS_PER_GROUP

UNROLLED_VECTORS = 2
"""How many vectors of several rows are no loop: for more, a library takes several times as long to compile."""


class DecodeColumns(DecodeMatmul):
    """Adds the products of a group and a block of columns to sums in memory, which should be in the L1 cache."""

    columns = 16

    @abstractmethod
    def load_weights(self, group: Expr, block: Expr, section: int, offset: Index) -> tuple[list[Expr], Expr]:
        """A group of the vector of columns at `offset` in a block: its words (uint32 lanes) and scales (fp32 lanes)."""

    def place(self, group: Expr, digit: int, step: int) -> Expr:
        return ((group * self.isa.digits + digit) * self.isa.steps + step) * WORDS_PER_GROUP

    def column(self, block: Expr, section: int) -> Expr:
        """The first column of a block in a section."""
        return self.first_column(block) + section * self.buffers.width

    def clear(self, thread: Expr, first: Expr, end: Expr) -> None:
        """Set a thread's sums of the blocks from `first` on to zero."""
        with self.each(self.scratch.rows) as row, T.serial(first, end) as block:
            for section in range(self.matmul.sections):
                store(self.sums, splat(T.float32(0), self.columns), [thread, self.sums_of(row, block, section)])

    def load_start(self, thread: Expr, group: Expr) -> Callable[[Expr], Expr]:
        """What a row's accumulators of a group start from: its zero-point correction, the same in every lane."""
        corrections, lanes = self.scratch.corrections, self.isa.lanes

        def start(row: Expr) -> Expr:
            if corrections is None:
                return splat(tirx.const(0, self.isa.accumulator_dtype), lanes)
            return splat(corrections[thread, row, group], lanes)

        if not self.one_row:
            return start
        of_one_row = T.bind(start(T.int32(0)))  # stays in a register
        return lambda row: of_one_row

    def accumulate(self, thread: Expr, group: Expr, block: Expr, section: int, start: Callable[[Expr], Expr]) -> None:
        """Add a group's products to the sums of a block, in all rows.

        Args:
            thread: The thread.
            group: The group.
            block: The block.
            section: The section.
            start: What `load_start` returned for the group.
        """
        lanes = self.isa.lanes
        if self.one_row or self.columns <= UNROLLED_VECTORS * lanes:
            for offset in range(0, self.columns, lanes):
                self._accumulate_vector(thread, group, block, section, offset, start)
            return
        with T.serial(0, self.columns // lanes) as vector:
            self._accumulate_vector(thread, group, block, section, vector * lanes, start)

    def _accumulate_vector(
        self, thread: Expr, group: Expr, block: Expr, section: int, offset: Index, start: Callable[[Expr], Expr]
    ) -> None:
        """Add a group's products to the sums of the vector of columns at `offset` in a block, in all rows."""
        weights = self.load_weights(group, block, section, offset)

        def place(row: Expr) -> Expr:
            return self.sums_of(row, block, section) + offset

        self.for_each_tile(partial(self._accumulate_tile, thread, group, weights, start, place))

    def _accumulate_tile(
        self,
        thread: Expr,
        group: Expr,
        weights: tuple[list[Expr], Expr],
        start: Callable[[Expr], Expr],
        place: Callable[[Expr], Expr],
        rows: list[Expr],
    ) -> None:
        """Add a group's products to some rows' sums of one vector of columns."""
        isa, scratch, (words, weight_scale) = self.isa, self.scratch, weights
        activations = [
            [self._load_activations(thread, row, group, word) for word in range(WORDS_PER_GROUP)] for row in rows
        ]
        products = isa.dot([start(row) for row in rows], words, activations)
        for row, products_of_row in zip(rows, products, strict=True):
            scale = weight_scale
            if scratch.activation_scales is not None:
                scale = scale * splat(scratch.activation_scales[thread, row, group], isa.lanes)
            total = load(self.sums, [thread, place(row)], isa.lanes) + products_of_row * scale
            store(self.sums, total, [thread, place(row)])

    def _load_activations(self, thread: Expr, row: Expr, group: Expr, word: int) -> list[list[Expr]]:
        """A word's activations by step and digit, each in every lane."""
        return [
            [
                splat(self.scratch.activations[thread, row, self.place(group, digit, step) + word], self.isa.lanes)
                for digit in range(self.isa.digits)
            ]
            for step in range(self.isa.steps)
        ]
