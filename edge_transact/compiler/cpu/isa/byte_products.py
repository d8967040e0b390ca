"""What the instruction sets with dot products of bytes share."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.base import Activations, InstructionSet, shift_right, sum_words
from edge_transact.compiler.cpu.isa.quantizer import ActivationQuantizer
from edge_transact.compiler.vector import cast, lanes_of, splat
from edge_transact.quantization import GROUP_SIZE, WORDS_PER_GROUP, ZERO_POINT


class ByteProducts(InstructionSet):
    """Four weights and one digit of four activations per lane, all bytes; two steps per word.

    Step `i` multiplies the nibbles `i`, `i + 2`, `i + 4` and `i + 6` of each word. Integers are summed exactly.

    Args:
        digits: Digits of an activation: 2 hold 16 bits, 3 hold 22.
    """

    steps = 2
    removes_zero_point = False
    quantizer: ActivationQuantizer

    def __init__(self, digits: int) -> None:
        self.quantizer = ActivationQuantizer(digits)

    @classmethod
    def for_target(cls, target: Target, digits: int, *, one_row: bool) -> InstructionSet:
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

    def dot(self, starts: Sequence[Expr], words: Sequence[Expr], activations: Sequence[Activations]) -> list[Expr]:
        zeros = [splat(T.int32(0), lanes_of(starts[0]))] * (self.digits - 1)
        accumulators = [[*zeros, start] for start in starts]
        for (number, vector), step in itertools.product(enumerate(words), range(self.steps)):
            weights = T.bind(self.unpack(vector, step))
            accumulators = [
                [
                    T.bind(self.multiply_add(accumulator, weights, digit))
                    for accumulator, digit in zip(of_digits, row[number][step], strict=True)
                ]
                for of_digits, row in zip(accumulators, activations, strict=True)
            ]
        return [cast("float32", functools.reduce(self._add_digit, of_digits)) for of_digits in accumulators]

    def _add_digit(self, total: Expr, products: Expr) -> Expr:
        """The sum of a digit's products and, in `total`, those of the digits above."""
        return self.quantizer.next_digit(total) + products
