"""AVX-VNNI for decode of several sequences: products of 16 bits, as `Avx2Words`, in one instruction instead of two.

vpdpwssd multiplies two pairs of int16 in each of its eight lanes and adds the products to an int32. Bytes would need as
many products, and an accumulator for each digit, which leaves registers for one vector of columns only.
"""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.avx2words import Avx2Words


class AvxVnniWords(Avx2Words):
    """Dot products of words by vpdpwssd in 256 bits."""

    name = "avxvnniwords"
    features = ("avxvnni", "avx2")

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        first, second = T.reinterpret("int16x16", weights), T.reinterpret("int16x16", activations)
        return T.call_llvm_pure_intrin("int32x8", "llvm.x86.avx512.vpdpwssd.256", accumulator, first, second)
