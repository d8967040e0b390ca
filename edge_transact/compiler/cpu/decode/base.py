"""Shared by decode matmuls of both weight layouts: scratch memory, the threads' shares, packed activations."""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.buffers import MatmulBuffers, for_each_group, inverse_rms
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.epilogue import finish
from edge_transact.compiler.vector import Index, exp, lanes_of, load, splat, store, sum_lanes

ROWS_TOGETHER = 4
"""Rows that are multiplied together by weights that are unpacked once."""

LAST_ROWS = ROWS_TOGETHER // 2
"""Rows of a half tile, for the last rows: a full tile that is half empty takes nearly as long as a full one."""


class Scratch:
    """The memory that the threads of a launch use besides registers, large enough for its largest matmul.

    Attributes:
        activations: Packed activations, int32 ``[threads, rows, ...]``.
        corrections: Their groups' zero-point corrections, ``[threads, rows, ...]``, unless `unpack` subtracts it.
        activation_scales: Scales of their groups, fp32 ``[threads, rows, ...]``, where activations are quantized.
        sums: Results before the epilogue, fp32 ``[threads, ...]``, by block, section and row. Consecutive matmuls
            alternate between two: a thread may still read one while others compute the next matmul.
        rows: Rows, filled up to a multiple of `LAST_ROWS`.
    """

    def __init__(
        self, matmuls: Sequence[MatmulBuffers], isas: Sequence[InstructionSet], columns: int, threads: int, rows: Index
    ) -> None:
        def largest(sizes: Iterable[Expr]) -> Expr:
            return T.bind(functools.reduce(T.max, sizes))

        isa, self.rows = isas[0], rows
        words = largest(padded_words(buffers, isa) for buffers, isa in zip(matmuls, isas, strict=True))
        self.activations = T.alloc_buffer((threads, rows, words * max(isa.digits * isa.steps for isa in isas)), "int32")
        self.corrections = (
            None if isa.removes_zero_point else T.alloc_buffer((threads, rows, words), isa.accumulator_dtype)
        )
        self.activation_scales = None if isa.quantizer is None else T.alloc_buffer((threads, rows, words), "float32")
        sums = T.bind(largest((buffers.width + columns) * buffers.matmul.sections for buffers in matmuls) * rows)
        self.sums = [T.alloc_buffer((threads, sums), "float32") for _ in matmuls[:2]]


def padded_words(buffers: MatmulBuffers, isa: InstructionSet) -> Expr:
    """The words of a row, padded to full vectors, so that those of the next digit or step are aligned."""
    return (buffers.words + (isa.lanes - 1)) // isa.lanes * isa.lanes


class DecodeMatmul(ABC):
    """One matmul of a launch, its `number` in it, divided among the threads.

    Attributes:
        least_columns: Columns of a block of one row, in each section; the fewest of a block of several rows.
        columns: Columns of a block, in each section.
        spreads_groups: A group's scale and correction are in `Scratch` once for each of its words, rather than once.
        in_parts: Each thread computes a part of all columns' sums, rather than the sums of some columns.
    """

    least_columns: ClassVar[int]
    spreads_groups: ClassVar[bool] = False
    in_parts: ClassVar[bool] = False

    def __init__(
        self, number: int, buffers: MatmulBuffers, isa: InstructionSet, scratch: Scratch, threads: int
    ) -> None:
        self.matmul, self.isa, self.buffers = buffers.matmul, isa, buffers
        self.scratch, self.threads = scratch, threads
        self.sums = scratch.sums[number % 2]
        self.one_row = isinstance(scratch.rows, int)
        self.columns = self.block_columns(isa, one_row=self.one_row)
        self.blocks = T.bind((self.buffers.width + (self.columns - 1)) // self.columns)

    @classmethod
    def block_columns(cls, isa: InstructionSet, *, one_row: bool) -> int:
        """Columns of a block, in each section; with several rows, `batch_vectors` if those are more."""
        return cls.least_columns if one_row else max(cls.least_columns, cls.batch_vectors(isa) * isa.lanes)

    @classmethod
    def batch_vectors(cls, isa: InstructionSet) -> int:
        """Vectors of columns that are multiplied together by several rows."""
        return isa.batch_vectors

    @abstractmethod
    def prefetch_first(self, thread: Expr) -> None:
        """Prefetch the thread's first weights."""

    @abstractmethod
    def multiply(self, thread: Expr) -> None:
        """Compute the sums of the thread's share, or its part of all sums."""

    @abstractmethod
    def place(self, group: Expr, digit: int, step: int) -> Expr:
        """The index in a row of `Scratch.activations` of a group's first word; its other words follow."""

    def first_column(self, block: Expr) -> Expr:
        """The first column of a block; the last block of a ragged width starts early and recomputes some columns."""
        return T.min(block * self.columns, self.buffers.width - self.columns)

    def sums_of(self, row: Expr, block: Expr, section: int) -> Expr:
        """The index in a thread's `sums` of a row and a block."""
        return ((block * self.matmul.sections + section) * self.scratch.rows + row) * self.columns

    def share(self, thread: Expr) -> tuple[Expr, Expr]:
        """The first block of a thread's equal share of the columns, and the one after its last."""
        return T.bind(thread * self.blocks // self.threads), T.bind((thread + 1) * self.blocks // self.threads)

    def groups(self, thread: Expr) -> tuple[Expr, Expr]:
        """The first group whose activations a thread needs, and the one after the last."""
        return T.int32(0), self.buffers.groups

    def pack_activations(self, thread: Expr) -> None:
        """Pack all rows' activations into the thread's scratch, with their scales and zero-point corrections."""
        groups = self.groups(thread)
        with self.each(self.scratch.rows) as row:
            # The last tile is filled up with the last row.
            source = (thread, T.bind(T.min(row, self.buffers.rows - 1)))
            rms = inverse_rms(self.buffers, source)
            for_each_group(self.buffers, source, groups, rms, self._packer(thread, row))

    def each(self, rows: Index) -> AbstractContextManager[Expr]:
        """A loop over rows; none if there is one row."""
        return nullcontext(T.int32(0)) if self.one_row else T.serial(0, rows)

    def for_each_tile(self, compute: Callable[[list[Expr]], None]) -> None:
        """Emit ``compute(rows)`` for the rows of each tile."""
        if self.one_row:
            compute([T.int32(0)])
            return
        with T.serial(0, self.scratch.rows // ROWS_TOGETHER) as tile:
            compute([tile * ROWS_TOGETHER + r for r in range(ROWS_TOGETHER)])
        with T.If(self.scratch.rows % ROWS_TOGETHER != 0), T.Then():
            compute([self.scratch.rows - LAST_ROWS + r for r in range(LAST_ROWS)])

    def finish(self, thread: Expr, first: Expr, end: Expr) -> None:
        """Apply the epilogue to the sums of the blocks from `first` to before `end`."""
        parts = range(self.threads) if self.in_parts else (thread,)
        # A separate loop, so that the CPU overlaps the dependent operations of several blocks.
        with self.each(self.buffers.rows) as row, T.serial(first, end) as block:
            sums = []
            for section in range(self.matmul.sections):
                place = T.bind(self.sums_of(row, block, section))
                of_parts = [load(self.sums, [part, place], self.columns) for part in parts]
                sums.append(T.bind(functools.reduce(operator.add, of_parts)))
            finish(self.buffers, (thread, row), T.bind(self.first_column(block)), sums, exp)

    def return_share(self, thread: Expr) -> None:
        """Copy the thread's share of the result from its own copy to the kernel's result."""
        out, returned = self.buffers.out, self.buffers.returned
        with self.each(self.buffers.rows) as row, T.serial(*self.share(thread)) as block:
            column = T.bind(self.first_column(block))
            result = load(out, self.buffers.at(out, (thread, row), column), self.columns)
            store(returned, result, self.buffers.at(returned, (thread, row), column))

    def _packer(self, thread: Expr, row: Expr) -> Callable[[Expr, Expr], None]:
        isa, scratch = self.isa, self.scratch

        def pack(group: Expr, x: Expr) -> None:
            copies = self.buffers.words_per_group if self.spreads_groups else 1
            of_group = [thread, row, group * copies]
            if isa.quantizer is not None and scratch.activation_scales is not None:
                store(scratch.activation_scales, splat(isa.quantizer.scale(x), copies), of_group)
                # Loaded again: TVM's integer analysis would walk through everything that it is computed from.
                x = T.bind(x * splat(T.float32(1) / load(scratch.activation_scales, of_group, 1), lanes_of(x)))
            for digit, steps in enumerate(isa.pack(x)):
                for step, activations in enumerate(steps):
                    store(scratch.activations, activations, [thread, row, self.place(group, digit, step)])
            if scratch.corrections is not None:
                correction = sum_lanes([T.bind(isa.zero_point_correction(x))])
                store(scratch.corrections, splat(correction, copies), of_group)

        return pack
