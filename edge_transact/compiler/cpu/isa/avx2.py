"""AVX2 for decode: dot products of bytes in two instructions.

vpmaddubsw multiplies 32 unsigned bytes (nibbles) by 32 signed ones (digits) and adds neighbours, in 16 bits. The sums
of a group stay there: its 16 products per lane are 16 * 15 * 128 = 30,720 at most. vpmaddwd then adds neighbours to 32
bits, and multiplies a digit by its place value on the way.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.avx2words import Avx2Words
from edge_transact.compiler.cpu.isa.base import InstructionSet
from edge_transact.compiler.cpu.isa.fp32 import Fp32
from edge_transact.compiler.cpu.isa.x86_bytes import X86Bytes
from edge_transact.compiler.matmul import Rows
from edge_transact.compiler.vector import add_quads, cast, lanes_of, splat


class Avx2(X86Bytes):
    """Dot products of bytes by vpmaddubsw, with sums of 16 bits."""

    name = "avx2"
    features = ("avx2", "fma", "f16c")
    lanes = 8

    @classmethod
    def for_target(cls, target: Target, digits: int, rows: Rows) -> InstructionSet:
        if rows == "one" or (rows == "batch" and digits > 2):
            return cls(digits)
        # Tiles leave no registers for sums of 16 bits beside those of 32. With three digits, prefill multiplies faster
        # in fp32; decode keeps bytes, so that a batch has the logits of one row.
        return Avx2Words() if digits == 2 else Fp32(cls.lanes)

    def multiply(self, weights: Expr, activations: Expr) -> Expr:
        """Products of bytes, added to their neighbours': int16, two lanes for each of the operands'."""
        nibbles, digits = T.reinterpret("int8x32", weights), T.reinterpret("int8x32", activations)
        return T.call_llvm_pure_intrin("int16x16", "llvm.x86.avx2.pmadd.ub.sw", nibbles, digits)

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
