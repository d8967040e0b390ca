"""The interface of an instruction set to the kernels, and computations that all share."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from tvm import tirx
from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.matmul import KERNEL_GRID, Rows
from edge_transact.compiler.vector import add_quads, cast, lanes_of, shuffle, splat, sum_lanes

if TYPE_CHECKING:
    from edge_transact.compiler.cpu.isa.quantizer import ActivationQuantizer

Activations: TypeAlias = Sequence[Sequence[Sequence[Expr]]]
"""Activations of some vectors of words, by word, step and digit: int32 lanes."""


class InstructionSet(ABC):
    """The vector instructions that multiply packed weights by activations.

    A packed word (uint32) holds eight 4-bit weights along the input features. For a vector of `lanes` words, each of
    `steps` steps unpacks a 32-bit lane of weights per word, multiplies it by a 32-bit lane of activations and adds the
    product to an accumulator. The scale of a group is applied, in fp32, to the group's accumulator.

    Attributes:
        name: A name for test ids and error messages.
        features: The CPU features that it needs, by LLVM's names.
        values_per_word, zero_point: The packed weights', which are on `KERNEL_GRID`.
        removes_zero_point: Whether `unpack` subtracts it; else accumulators start from `zero_point_correction`.
        prefetches_far: Whether decode prefetches weights to the L2 cache before the L1 cache.
        batch_vectors: Vectors of columns that decode of several sequences multiplies at a time.
        batch_vectors_nk: The same for an NK weight, which is transposed before; `None` for `batch_vectors`.
        tile_rows: Rows of a tile of prefill with two vectors of accumulators each.
        signed_panels: Whether prefill's panels hold quantized activations' weights without their zero point.
        selects_activations: Whether an instruction multiplies by a lane of a vector, so that prefill loads the
            activations of a group at once.
        block_rows: Rows of a block. A vector of prefill's accumulators holds `block_rows` rows by
            ``lanes // block_rows`` columns; a vector of weights or activations, `block_rows` lanes along the input
            features of each of its columns or rows.
        quantizer: How activations become integers; `None` where they stay fp32.
        otherwise: The instruction set of prefill on CPUs that lack this one at run time; `None` if all have it.
    """

    name: ClassVar[str]
    features: ClassVar[tuple[str, ...]]
    steps: ClassVar[int]
    values_per_word: ClassVar[int] = 32 // KERNEL_GRID[0]
    zero_point: ClassVar[int] = KERNEL_GRID[2]
    removes_zero_point: ClassVar[bool]
    lanes: int
    prefetches_far: ClassVar[bool] = True
    batch_vectors: int = 1
    batch_vectors_nk: int | None = None
    tile_rows: ClassVar[int] = 6
    signed_panels: ClassVar[bool] = False
    selects_activations: ClassVar[bool] = False
    block_rows: ClassVar[int] = 1
    quantizer: ActivationQuantizer | None = None
    otherwise: InstructionSet | None = None

    @classmethod
    @abstractmethod
    def for_target(cls, target: Target, digits: int, rows: Rows) -> InstructionSet:
        """The instruction set that `select` returns for a target with these features; arguments are as there."""

    def is_there(self) -> Expr:
        """Whether the CPU that runs the kernel has the instructions, a bool; for those with an `otherwise`."""
        raise NotImplementedError(self.name)

    @property
    def digits(self) -> int:
        """32-bit lanes of activations per lane of weights: one unless they are quantized."""
        return 1 if self.quantizer is None else self.quantizer.digits

    @property
    def accumulator_dtype(self) -> str:
        """The dtype in which the products of a group are summed."""
        return "float32" if self.quantizer is None else "int32"

    @abstractmethod
    def unpack(self, words: Expr, step: int) -> Expr:
        """The weights of one step: int32 lanes, with the zero point still in them unless `removes_zero_point`."""

    def unpack_for_panel(self, words: Expr) -> list[list[Expr]]:
        """The weights of a vector of words as prefill's panels keep them, without the zero point if fp32 or signed.

        int32 lanes, by product of a word (``steps // block_rows``) and block (`block_rows`).
        """
        return [[self.unpack(words, step)] for step in range(self.steps)]

    @abstractmethod
    def pack(self, x: Expr) -> list[list[Expr]]:
        """Arrange a group's activations for `multiply_add`: by digit and step, int32, one lane per word.

        `x` is fp32, 32 lanes, in multiples of their scale where they are quantized.
        """

    def pack_for_panel(self, x: Expr) -> list[list[Expr]]:
        """The same for `multiply_add_block`: int32, by digit; joined, `block_rows` lanes for each product."""
        return self.pack(x)

    def zero_point_correction(self, x: Expr) -> Expr:
        """The negated contribution of the zero point to each word's products, `accumulator_dtype`, for `pack`'s `x`."""
        if self.quantizer is not None:
            x = T.bind(self.quantizer.round(x))
        firsts, size = range(0, lanes_of(x), self.values_per_word), self.values_per_word
        minus = splat(tirx.const(-self.zero_point, self.accumulator_dtype), len(firsts))
        return minus * sum_lanes([shuffle([x], range(first, first + size)) for first in firsts])

    @abstractmethod
    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        """``accumulator + weights * activations``, lane by lane."""

    def multiply_add_block(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        """The same for a block: each of its rows of activations by each of its columns of weights."""
        return self.multiply_add(accumulator, weights, activations)

    def row_of_blocks(self, blocks: Sequence[Expr], row: int) -> Expr:
        """A row of the `block_rows` blocks of a vector of columns: one lane per column."""
        (block,) = blocks
        return block

    @abstractmethod
    def begin(self, start: Expr) -> list[Expr]:
        """The accumulators of a dot product that starts from `start`, `accumulator_dtype` lanes."""

    @abstractmethod
    def add(self, accumulators: Sequence[Expr], weights: Expr, digits: Sequence[Expr], step: int) -> list[Expr]:
        """The accumulators after the products of a step's weights and each digit of its activations."""

    @abstractmethod
    def total(self, accumulators: Sequence[Expr]) -> Expr:
        """The sum of all digits' accumulators: `accumulator_dtype` lanes."""

    def end(self, accumulators: Sequence[Expr], start: Expr) -> Expr:
        """The sum of all products and the start: fp32 lanes."""
        return cast("float32", self.total(accumulators))

    def sum_quads(self, columns: Sequence[Sequence[Expr]]) -> Expr:
        """The totals of four columns' accumulators, every four lanes (a group's) added; the first group's first."""
        return add_quads([T.bind(self.total(accumulators)) for accumulators in columns])

    def dot(self, start: Expr, words: Sequence[Expr], activations: Activations) -> Expr:
        """The dot product of vectors of words (uint32 lanes) with their activations, plus `start`: fp32 lanes."""
        return self.end(self.accumulate(start, words, activations), start)

    def accumulate(self, start: Expr, words: Sequence[Expr], activations: Activations) -> list[Expr]:
        """The accumulators of that dot product, with all products in them."""
        accumulators = self.begin(start)
        for (vector, of_vector), step in itertools.product(zip(words, activations, strict=True), range(self.steps)):
            weights = T.bind(self.unpack(vector, step))
            accumulators = [T.bind(each) for each in self.add(accumulators, weights, of_vector[step], step)]
        return accumulators


def shift_right(words: Expr, bits: int) -> Expr:
    """uint32 lanes shifted right; themselves for no bits."""
    return words if bits == 0 else T.shift_right(words, splat(T.uint32(bits), lanes_of(words)))
