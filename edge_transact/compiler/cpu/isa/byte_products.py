"""The bases of instruction sets with dot products of bytes."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.base import InstructionSet, shift_right
from edge_transact.compiler.cpu.isa.quantizer import ActivationQuantizer
from edge_transact.compiler.matmul import Rows
from edge_transact.compiler.vector import add_neighbours, lanes_of, splat


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
            return T.reinterpret("int32x4", self.quantizer.select(digits, digit, range(step, lanes_of(x), self.steps)))

        return [[lane(digit, step) for step in range(self.steps)] for digit in reversed(range(self.digits))]

    def begin(self, start: Expr) -> list[Expr]:
        return [splat(T.int32(0), lanes_of(start))] * (self.digits - 1) + [start]

    def add(self, accumulators: Sequence[Expr], weights: Expr, digits: Sequence[Expr], step: int) -> list[Expr]:
        return [self.multiply_add(each, weights, digit) for each, digit in zip(accumulators, digits, strict=True)]

    def total(self, accumulators: Sequence[Expr]) -> Expr:
        return functools.reduce(self._add_digit, accumulators)

    def _add_digit(self, total: Expr, products: Expr) -> Expr:
        """A digit's products added to `total`, that of the digits above it."""
        return self.quantizer.next_digit(total) + products


class X86Bytes(ByteProducts):
    """Dot products of bytes whose sums of a digit and a word fit in 16 bits."""

    def multiply_words(self, first: Expr, second: Expr) -> Expr:
        """Products of int16, added to their neighbours': int32."""
        return multiply_words(first, second)

    def narrow(self, first: Expr, second: Expr) -> Expr:
        """int32 to int16: each four lanes of `first` and each four of `second`, in turn. Source: Intel's vpackssdw."""
        lanes = lanes_of(first)
        instruction = {
            4: "llvm.x86.sse2.packssdw.128",
            8: "llvm.x86.avx2.packssdw",
            16: "llvm.x86.avx512.packssdw.512",
        }[lanes]
        return T.call_llvm_pure_intrin(f"int16x{2 * lanes}", instruction, first, second)

    def sum_quads(self, columns: Sequence[Sequence[Expr]]) -> Expr:
        first, second = (
            T.bind(self.join_digits(*(T.bind(self.narrow(a, b)) for a, b in zip(*pair, strict=True))))
            for pair in (columns[:2], columns[2:])
        )
        return add_neighbours(first, second)

    def join_digits(self, highest: Expr, second: Expr, *others: Expr) -> Expr:
        """The sums of all digits' products, int16, with neighbouring lanes added: int32."""
        total = self.add_pairs(highest, 256) + self.add_pairs(second, 1)
        for other in others:
            total = self.quantizer.next_digit(total) + self.add_pairs(other, 1)
        return total

    def add_pairs(self, sums: Expr, factor: int) -> Expr:
        """Neighbouring lanes of `sums`, int16, added and multiplied by `factor`: int32."""
        return self.multiply_words(sums, splat(T.int16(factor), lanes_of(sums)))


def multiply_words(first: Expr, second: Expr) -> Expr:
    """vpmaddwd: products of int16, added to their neighbours': int32, half as many lanes."""
    lanes = lanes_of(first)
    instruction = {
        8: "llvm.x86.sse2.pmadd.wd",
        16: "llvm.x86.avx2.pmadd.wd",
        32: "llvm.x86.avx512.pmaddw.d.512",
    }[lanes]
    return T.call_llvm_pure_intrin(f"int32x{lanes // 2}", instruction, first, second)
