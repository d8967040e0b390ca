"""What the instruction sets that multiply in fp32 share."""

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

    def dot(self, start: Expr, words: Sequence[Expr], activations: Sequence[Sequence[Sequence[Expr]]]) -> Expr:
        # Two accumulators take turns, so that a multiply-add rarely waits for the one before it.
        accumulators = [start, splat(T.float32(0), lanes_of(start))][: len(words)]
        turn = 0
        for vector, of_word in zip(words, activations, strict=True):
            for step, digits in enumerate(of_word):
                weights = T.bind(self.unpack(vector, step))
                for digit in digits:
                    accumulators[turn] = T.bind(self.multiply_add(accumulators[turn], weights, digit))
                    turn = (turn + 1) % len(accumulators)
        return sum(accumulators[1:], accumulators[0])
