"""AVX-512 without byte dot products.

The 16 values of a weight fit in one register of fp32, so one permute (vpermps) looks up 16 weights. It reads the low
four bits of each index, so unpacking is a shift.
"""

from __future__ import annotations

from typing import Self

from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.base import shift_right, take_from_words
from edge_transact.compiler.cpu.isa.float_products import FloatProducts
from edge_transact.compiler.matmul import Rows
from edge_transact.quantization import ZERO_POINT


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
        table = T.Cast("float32x16", T.ramp(T.int32(-ZERO_POINT), 1, 16))
        index = T.reinterpret("int32x16", shift_right(words, 4 * step))
        return T.reinterpret("int32x16", self.look_up(table, index))

    def look_up(self, table: Expr, index: Expr) -> Expr:
        """The lanes of `table` at the low four bits of `index`."""
        return T.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.permvar.sf.512", table, index)

    def pack(self, x: Expr) -> list[list[Expr]]:
        return [[T.reinterpret("int32x4", take_from_words(x, step)) for step in range(self.steps)]]
