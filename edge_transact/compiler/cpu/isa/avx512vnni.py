"""AVX-512 with dot products of bytes.

vpdpbusd multiplies four unsigned bytes (nibbles) by four signed ones (digits) in each of its 16 lanes and adds the
products to an int32.
"""

from __future__ import annotations

from typing import Self

from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.avx512 import Avx512
from edge_transact.compiler.cpu.isa.x86_bytes import X86Bytes
from edge_transact.compiler.matmul import Rows


class Avx512Vnni(X86Bytes):
    """Dot products of bytes by vpdpbusd.

    `batch_vectors` and `batch_vectors_nk` are one or two: each loaded activation is used in a product with each.
    """

    name = "avx512vnni"
    features = ("avx512vnni", *Avx512.features)
    lanes = 16

    def __init__(self, digits: int, batch_vectors: int = 2, batch_vectors_nk: int | None = None) -> None:
        super().__init__(digits)
        self.batch_vectors, self.batch_vectors_nk = batch_vectors, batch_vectors_nk

    @classmethod
    def for_target(cls, target: Target, digits: int, rows: Rows) -> Self:
        mcpu = str(target.attrs["mcpu"])
        # Ice Lake starts two products in a cycle, but loads one vector, so two vectors pay; Zen 4 starts one product.
        # On Zen 5, one vector was measured to be faster with NK weights.
        return cls(digits, 1 if mcpu == "znver4" else 2, 1 if mcpu == "znver5" else None)

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        nibbles, digits = T.reinterpret("int8x64", weights), T.reinterpret("int8x64", activations)
        return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", accumulator, nibbles, digits)
