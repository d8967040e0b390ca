"""The base of x86's dot products of bytes: sums of 16 bits, whose neighbours vpmaddwd adds."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.byte_products import ByteProducts
from edge_transact.compiler.vector import add_neighbours, lanes_of, splat


class X86Bytes(ByteProducts):
    """Dot products of bytes whose sums of a digit and a word fit in 16 bits."""

    def multiply_words(self, first: Expr, second: Expr) -> Expr:
        """Products of int16, added to their neighbours': int32."""
        return multiply_words(first, second)

    def narrow(self, first: Expr, second: Expr) -> Expr:
        """int32 to int16: each four lanes of `first` and each four of `second`, in turn. Source: Intel's vpackssdw."""
        lanes = lanes_of(first)
        instruction = {8: "llvm.x86.avx2.packssdw", 16: "llvm.x86.avx512.packssdw.512"}[lanes]
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
    instruction = {16: "llvm.x86.avx2.pmadd.wd", 32: "llvm.x86.avx512.pmaddw.d.512"}[lanes]
    return T.call_llvm_pure_intrin(f"int32x{lanes // 2}", instruction, first, second)
