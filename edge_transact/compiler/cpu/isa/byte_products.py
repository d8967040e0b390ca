"""The base of instruction sets with dot products of bytes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.base import InstructionSet, shift_right, sum_words
from edge_transact.compiler.cpu.isa.quantizer import ActivationQuantizer
from edge_transact.compiler.matmul import Rows
from edge_transact.compiler.vector import lanes_of, splat
from edge_transact.quantization import GROUP_SIZE, WORDS_PER_GROUP, ZERO_POINT


class ByteProducts(InstructionSet):
    """Four weights and one digit of four activations per lane, all bytes; two steps per word, summed exactly.

    Step `i` multiplies the nibbles `i`, `i + 2`, `i + 4` and `i + 6` of each word.
    """

    steps = 2
    removes_zero_point = False
    quantizer: ActivationQuantizer

    def __init__(self, digits: int) -> None:
        self.quantizer = ActivationQuantizer(digits)

    @classmethod
    def for_target(cls, target: Target, digits: int, rows: Rows) -> InstructionSet:
        return cls(digits)

    def unpack(self, words: Expr, step: int) -> Expr:
        lanes = lanes_of(words)
        nibbles = T.bitwise_and(shift_right(words, 4 * step), splat(T.uint32(0x0F0F0F0F), lanes))
        return T.reinterpret(f"int32x{lanes}", nibbles)

    def pack(self, x: Expr) -> list[list[Expr]]:
        digits = T.bind(self.quantizer.split(x))

        def lane(digit: int, step: int) -> Expr:
            return T.reinterpret("int32x4", self.quantizer.select(digits, digit, range(step, GROUP_SIZE, self.steps)))

        return [[lane(digit, step) for step in range(self.steps)] for digit in reversed(range(self.digits))]

    def zero_point_correction(self, x: Expr) -> Expr:
        return splat(T.int32(-ZERO_POINT), WORDS_PER_GROUP) * sum_words(T.bind(self.quantizer.round(x)))

    def begin(self, start: Expr) -> list[Expr]:
        return [splat(T.int32(0), lanes_of(start))] * (self.digits - 1) + [start]

    def add(self, accumulators: Sequence[Expr], weights: Expr, digits: Sequence[Expr], step: int) -> list[Expr]:
        return [self.multiply_add(each, weights, digit) for each, digit in zip(accumulators, digits, strict=True)]

    def total(self, accumulators: Sequence[Expr]) -> Expr:
        return functools.reduce(self._add_digit, accumulators)

    def _add_digit(self, total: Expr, products: Expr) -> Expr:
        """A digit's products added to `total`, that of the digits above it."""
        return self.quantizer.next_digit(total) + products
