"""AVX2, and SSE4.2 in half its width.

Decode: vpmaddubsw multiplies 32 unsigned bytes (nibbles) by 32 signed ones (digits) and adds neighbours, in 16 bits.
The sums of a group stay there: its 16 products per lane are 16 * 15 * 128 = 30,720 at most. vpmaddwd then adds
neighbours to 32 bits, and multiplies a digit by its place value on the way.

Prefill, and decode of several sequences: vpmaddwd multiplies 16 pairs of int16, activations of 16 bits by weights of 16
bits, and adds neighbours to 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.base import InstructionSet, shift_right
from edge_transact.compiler.cpu.isa.byte_products import X86Bytes, multiply_words
from edge_transact.compiler.cpu.isa.fp32 import Fp32
from edge_transact.compiler.cpu.isa.quantizer import ActivationQuantizer
from edge_transact.compiler.matmul import Rows
from edge_transact.compiler.vector import add_quads, cast, lanes_of, shuffle, splat


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
        halves = 2 * lanes_of(x)
        integers = T.bind(T.reinterpret(f"int16x{halves}", self.quantizer.round(x)))

        def lane(step: int) -> Expr:
            return T.reinterpret("int32x4", shuffle([integers], range(2 * step, halves, 2 * self.steps)))

        return [[lane(step) for step in range(self.steps)]]

    def multiply(self, weights: Expr, activations: Expr) -> Expr:
        """Products of int16, added to their neighbours': int32."""
        return multiply_words(weights, activations)

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        words = f"int16x{2 * self.lanes}"
        return accumulator + self.multiply(T.reinterpret(words, weights), T.reinterpret(words, activations))

    def begin(self, start: Expr) -> list[Expr]:
        return [start]

    def add(self, accumulators: Sequence[Expr], weights: Expr, digits: Sequence[Expr], step: int) -> list[Expr]:
        (accumulator,), (integers,) = accumulators, digits
        return [self.multiply_add(accumulator, weights, integers)]

    def total(self, accumulators: Sequence[Expr]) -> Expr:
        (total,) = accumulators
        return total


class Avx2(X86Bytes):
    """Dot products of bytes by vpmaddubsw, with sums of 16 bits."""

    name = "avx2"
    features: ClassVar[tuple[str, ...]] = ("avx2", "fma", "f16c")
    lanes = 8
    words: ClassVar[type[Avx2Words]] = Avx2Words
    instruction: ClassVar[str] = "llvm.x86.avx2.pmadd.ub.sw"

    @classmethod
    def for_target(cls, target: Target, digits: int, rows: Rows) -> InstructionSet:
        if rows == "one" or (rows == "batch" and digits > 2):
            return cls(digits)
        # Tiles leave no registers for sums of 16 bits beside those of 32. With three digits, prefill multiplies faster
        # in fp32; decode keeps bytes, so that a batch has the logits of one row.
        return cls.words() if digits == 2 else Fp32(cls.lanes)

    def multiply(self, weights: Expr, activations: Expr) -> Expr:
        """Products of bytes, added to their neighbours': int16, two lanes for each of the operands'."""
        dtype = f"int8x{4 * self.lanes}"
        nibbles, digits = T.reinterpret(dtype, weights), T.reinterpret(dtype, activations)
        return T.call_llvm_pure_intrin(f"int16x{2 * self.lanes}", self.instruction, nibbles, digits)

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        return accumulator + self.add_pairs(self.multiply(weights, activations), 1)

    def begin(self, start: Expr) -> list[Expr]:
        return [splat(T.int16(0), 2 * lanes_of(start))] * self.digits

    def add(self, accumulators: Sequence[Expr], weights: Expr, digits: Sequence[Expr], step: int) -> list[Expr]:
        return [each + self.multiply(weights, digit) for each, digit in zip(accumulators, digits, strict=True)]

    def total(self, accumulators: Sequence[Expr]) -> Expr:
        return self.join_digits(*accumulators)

    def end(self, accumulators: Sequence[Expr], start: Expr) -> Expr:
        return cast("float32", self.total(accumulators) + start)

    def sum_quads(self, columns: Sequence[Sequence[Expr]]) -> Expr:
        # Before they are widened: those of a group still fit in 16 bits.
        return self.join_digits(*(add_quads(digit, 2) for digit in zip(*columns, strict=True)))


class SseWords(Avx2Words):
    """The same in 128 bits, by SSE2's pmaddwd."""

    name = "ssewords"
    features = ("sse4.2",)
    lanes = 4


class Sse(Avx2):
    """The same in 128 bits, by SSSE3's pmaddubsw and SSE2's pmaddwd."""

    name = "sse"
    features = ("sse4.2",)
    lanes = 4
    words = SseWords
    instruction = "llvm.x86.ssse3.pmadd.ub.sw.128"
