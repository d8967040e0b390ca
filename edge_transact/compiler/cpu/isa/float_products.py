"""The base of instruction sets that multiply in fp32."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.base import InstructionSet, sum_words
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

    def begin(self, start: Expr) -> list[Expr]:
        # Two that take turns, so that products rarely wait for each other.
        return [start, splat(T.float32(0), lanes_of(start))]

    def add(self, accumulators: Sequence[Expr], weights: Expr, digits: Sequence[Expr], step: int) -> list[Expr]:
        (activation,), turn = digits, step % 2
        return [
            self.multiply_add(each, weights, activation) if i == turn else each for i, each in enumerate(accumulators)
        ]

    def total(self, accumulators: Sequence[Expr]) -> Expr:
        first, second = accumulators
        return first + second
