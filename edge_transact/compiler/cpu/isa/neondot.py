"""NEON with dot products of bytes (ARMv8.2 with dotprod).

sdot multiplies four signed bytes (nibbles, which are positive) by four others (digits) in each of its four lanes and
adds the products to an int32.
"""

from __future__ import annotations

from typing import ClassVar

from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.byte_products import ByteProducts


class NeonDot(ByteProducts):
    """Dot products of bytes by sdot."""

    name = "neondot"
    features: ClassVar[tuple[str, ...]] = ("dotprod",)
    lanes = 4
    batch_vectors = 2
    # Not measured on a phone yet.
    prefetches_far = False

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        nibbles, digits = T.reinterpret("int8x16", weights), T.reinterpret("int8x16", activations)
        return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", accumulator, nibbles, digits)
