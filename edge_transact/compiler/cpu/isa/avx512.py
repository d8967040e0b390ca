"""AVX-512, with and without dot products of bytes.

Without them, one permute (vpermps) looks up 16 weights in a register of fp32. With them, vpdpbusd multiplies four
unsigned bytes (nibbles) by four signed ones (digits) in each lane and adds the products to an int32.
"""

from __future__ import annotations

from typing import Self

from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.base import shift_right
from edge_transact.compiler.cpu.isa.byte_products import X86Bytes
from edge_transact.compiler.cpu.isa.fp32 import FloatProducts
from edge_transact.compiler.matmul import Rows


class Avx512(FloatProducts):
    """fp32 products of weights from a table in a register."""

    name = "avx512"
    features = ("avx512f", "avx512bw", "avx512vl", "avx512dq")
    removes_zero_point = True
    lanes = 16

    @classmethod
    def for_target(cls, target: Target, digits: int, rows: Rows) -> Self:
        return cls()

    def unpack(self, words: Expr, step: int) -> Expr:
        table = T.Cast("float32x16", T.ramp(T.int32(-self.zero_point), 1, 16))
        index = T.reinterpret("int32x16", shift_right(words, 4 * step))
        return T.reinterpret("int32x16", self.look_up(table, index))

    def look_up(self, table: Expr, index: Expr) -> Expr:
        """The lanes of `table` at the low four bits of `index`."""
        return T.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.permvar.sf.512", table, index)

    def pack(self, x: Expr) -> list[list[Expr]]:
        return [[T.reinterpret("int32x4", self.activations(x, step)) for step in range(self.steps)]]


class Avx512Vnni(X86Bytes):
    """Dot products of bytes by vpdpbusd."""

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
