"""fp32 products in plain TIR, for any LLVM target.

A nibble is converted in place, times a power of 16, and its activation is divided by the same power; both are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.base import InstructionSet, shift_right
from edge_transact.compiler.matmul import Rows
from edge_transact.compiler.vector import cast, lanes_of, shuffle, splat


class FloatProducts(InstructionSet):
    """One weight and one activation per lane, both fp32; eight steps per word."""

    steps = InstructionSet.values_per_word

    def activations(self, x: Expr, step: int) -> Expr:
        """Those of a group that a step multiplies, one of each word."""
        return shuffle([x], range(step, lanes_of(x), self.steps))

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


PLACE_VALUES = (1, 16, 256, 4096) * 2
"""The factor of each nibble; the upper half is first shifted down by 16 bits."""


class Fp32(FloatProducts):
    """fp32 products in vectors of `lanes` words, on any CPU."""

    name = "fp32"
    features = ()
    removes_zero_point = False

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    @classmethod
    def for_target(cls, target: Target, digits: int, rows: Rows) -> Self:
        # Vectors of Arm's cores have 128 bits. Apple's triples call them arm64.
        return cls(4 if str(target.attrs.get("mtriple", "")).startswith(("aarch64", "arm64")) else 8)

    def unpack(self, words: Expr, step: int) -> Expr:
        lanes = lanes_of(words)
        half = shift_right(words, 16 * (step // 4))
        nibbles = T.bitwise_and(half, splat(T.uint32(15 * PLACE_VALUES[step]), lanes))
        return T.reinterpret(f"int32x{lanes}", cast("float32", cast("int32", nibbles)))

    def unpack_for_panel(self, words: Expr) -> list[list[Expr]]:
        lanes = lanes_of(words)

        def weights(step: int) -> Expr:
            nibbles = T.reinterpret(f"float32x{lanes}", self.unpack(words, step))
            zero = splat(T.float32(self.zero_point * PLACE_VALUES[step]), lanes)
            return T.reinterpret(f"int32x{lanes}", nibbles - zero)

        return [[weights(step)] for step in range(self.steps)]

    def pack(self, x: Expr) -> list[list[Expr]]:
        return [
            [
                T.reinterpret("int32x4", self.activations(x, step) * splat(T.float32(1 / place), 4))
                for step, place in enumerate(PLACE_VALUES)
            ]
        ]
