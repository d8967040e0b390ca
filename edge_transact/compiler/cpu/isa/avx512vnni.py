"""AVX-512 with dot products of bytes.

vpdpbusd multiplies four unsigned bytes (nibbles) by four signed ones (digits) in each of its 16 lanes and adds the
products to an int32.
"""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.avx512 import Avx512
from edge_transact.compiler.cpu.isa.x86_bytes import X86Bytes


class Avx512Vnni(X86Bytes):
    """Dot products of bytes by vpdpbusd."""

    name = "avx512vnni"
    features = ("avx512vnni", *Avx512.features)
    lanes = 16

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        nibbles, digits = T.reinterpret("int8x64", weights), T.reinterpret("int8x64", activations)
        return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", accumulator, nibbles, digits)
