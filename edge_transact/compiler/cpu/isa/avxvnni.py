"""AVX-VNNI: dot products in 256 bits, on CPUs without AVX-512 such as Intel's from Alder Lake on.

vpdpbusd multiplies four unsigned bytes (nibbles) by four signed ones (digits) in each lane and adds the products to an
int32. vpdpwssd does that with two pairs of int16, for decode of several sequences, with fewer accumulators.
"""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.avx2 import Avx2Words
from edge_transact.compiler.cpu.isa.base import InstructionSet
from edge_transact.compiler.cpu.isa.byte_products import X86Bytes
from edge_transact.compiler.matmul import Rows


class AvxVnniWords(Avx2Words):
    """Dot products of words by vpdpwssd in 256 bits."""

    name = "avxvnniwords"
    features = ("avxvnni", "avx2")

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        first, second = T.reinterpret("int16x16", weights), T.reinterpret("int16x16", activations)
        return T.call_llvm_pure_intrin("int32x8", "llvm.x86.avx512.vpdpwssd.256", accumulator, first, second)


class AvxVnni(X86Bytes):
    """Dot products of bytes by vpdpbusd in 256 bits."""

    name = "avxvnni"
    features = ("avxvnni", "avx2")
    lanes = 8

    @classmethod
    def for_target(cls, target: Target, digits: int, rows: Rows) -> InstructionSet:
        # Prefill is as fast with either. Words have no third digit.
        return AvxVnniWords() if rows == "batch" and digits == 2 else cls(digits)

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        nibbles, digits = T.reinterpret("int8x32", weights), T.reinterpret("int8x32", activations)
        return T.call_llvm_pure_intrin("int32x8", "llvm.x86.avx512.vpdpbusd.256", accumulator, nibbles, digits)
