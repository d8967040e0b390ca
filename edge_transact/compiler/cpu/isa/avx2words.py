"""AVX2 for prefill, and for decode of several sequences: activations of 16 bits as they are, times weights of 16 bits.

vpmaddwd multiplies 16 pairs of int16 and adds neighbours to 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.base import InstructionSet, shift_right, sum_words
from edge_transact.compiler.cpu.isa.quantizer import ActivationQuantizer
from edge_transact.compiler.cpu.isa.x86_bytes import multiply_words
from edge_transact.compiler.matmul import Rows
from edge_transact.compiler.vector import lanes_of, shuffle, splat
from edge_transact.quantization import GROUP_SIZE, WORDS_PER_GROUP, ZERO_POINT


class Avx2Words(InstructionSet):
    """Two weights and two activations per lane, all int16; four steps per word.

    Step `i` multiplies the nibbles `i` and `i + 4` of each word. Integers are summed exactly.
    """

    name = "avx2words"
    features: ClassVar[tuple[str, ...]] = ("avx2", "fma", "f16c")
    lanes = 8
    steps = 4
    batch_vectors = 2
    tile_rows = 5
    removes_zero_point = False
    quantizer: ActivationQuantizer

    def __init__(self) -> None:
        self.quantizer = ActivationQuantizer(2)

    @classmethod
    def for_target(cls, target: Target, digits: int, rows: Rows) -> Self:
        return cls()

    @property
    def digits(self) -> int:
        return 1

    def unpack(self, words: Expr, step: int) -> Expr:
        lanes = lanes_of(words)
        nibbles = T.bitwise_and(shift_right(words, 4 * step), splat(T.uint32(0x000F000F), lanes))
        return T.reinterpret(f"int32x{lanes}", nibbles)

    def pack(self, x: Expr) -> list[list[Expr]]:
        # The lower halves of int32.
        integers = T.bind(T.reinterpret(f"int16x{2 * GROUP_SIZE}", self.quantizer.round(x)))

        def lane(step: int) -> Expr:
            return T.reinterpret("int32x4", shuffle([integers], range(2 * step, 2 * GROUP_SIZE, 2 * self.steps)))

        return [[lane(step) for step in range(self.steps)]]

    def zero_point_correction(self, x: Expr) -> Expr:
        return splat(T.int32(-ZERO_POINT), WORDS_PER_GROUP) * sum_words(T.bind(self.quantizer.round(x)))

    def multiply(self, weights: Expr, activations: Expr) -> Expr:
        """Products of int16, added to their neighbours': int32."""
        return multiply_words(weights, activations)

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        return accumulator + self.multiply(T.reinterpret("int16x16", weights), T.reinterpret("int16x16", activations))

    def begin(self, start: Expr) -> list[Expr]:
        return [start]

    def add(self, accumulators: Sequence[Expr], weights: Expr, digits: Sequence[Expr], step: int) -> list[Expr]:
        (accumulator,), (integers,) = accumulators, digits
        return [self.multiply_add(accumulator, weights, integers)]

    def total(self, accumulators: Sequence[Expr]) -> Expr:
        (total,) = accumulators
        return total
