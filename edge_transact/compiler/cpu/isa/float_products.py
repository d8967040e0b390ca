"""What the instruction sets that multiply in fp32 share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.base import Activations, InstructionSet, sum_words
from edge_transact.compiler.vector import lanes_of, splat
from edge_transact.quantization import VALUES_PER_WORD, WORDS_PER_GROUP, ZERO_POINT


class FloatProducts(InstructionSet):
    """One weight and one activation per lane, both fp32; eight steps per word."""

    steps = VALUES_PER_WORD

    def zero_point_correction(self, x: Expr) -> Expr:
        return splat(T.float32(-ZERO_POINT), WORDS_PER_GROUP) * sum_words(x)

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        dtype = f"float32x{lanes_of(accumulator)}"
        return accumulator + T.reinterpret(dtype, weights) * T.reinterpret(dtype, activations)

    def dot(self, starts: Sequence[Expr], words: Sequence[Expr], activations: Sequence[Activations]) -> list[Expr]:
        # Two accumulators of a row take turns, too.
        zero = splat(T.float32(0), lanes_of(starts[0]))
        accumulators = [[start, zero][: len(words)] for start in starts]
        for (number, vector), step in itertools.product(enumerate(words), range(self.steps)):
            weights = T.bind(self.unpack(vector, step))
            for of_row, row in zip(accumulators, activations, strict=True):
                turn, (activation,) = step % len(of_row), row[number][step]
                of_row[turn] = T.bind(self.multiply_add(of_row[turn], weights, activation))
        return [sum(of_row[1:], of_row[0]) for of_row in accumulators]
