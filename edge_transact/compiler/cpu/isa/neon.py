"""NEON with dot products of bytes (ARMv8.2 with dotprod), and with products of matrices of bytes (i8mm) for prefill.

sdot multiplies four signed bytes (weights) by four others (digits) in each of its four lanes and
adds the products to an int32. smmla multiplies two rows of eight digits by two columns of eight weights, and adds the
products to a block of two by two int32 (Arm Architecture Reference Manual).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

from tvm.script import tirx as T
from tvm.target import Target
from tvm.tirx import Expr

from edge_transact.compiler.cpu.isa.byte_products import ByteProducts
from edge_transact.compiler.matmul import Rows
from edge_transact.compiler.vector import lanes_of, shuffle, splat
from edge_transact.system.cpu import I8MM_AT_RUN_TIME

AT_HWCAP2 = 26
"""The argument of libc's getauxval, on Linux and Android. Source: Linux, ``include/uapi/linux/auxvec.h``."""

HWCAP2_I8MM = 1 << 13
"""The bit of i8mm in its result. Source: Linux, ``arch/arm64/include/uapi/asm/hwcap.h``."""


class NeonDot(ByteProducts):
    """Dot products of bytes by sdot."""

    name = "neondot"
    features: ClassVar[tuple[str, ...]] = ("dotprod",)
    lanes = 4
    batch_vectors = 2
    # Not measured on a phone yet.
    prefetches_far = False
    signed_panels = True
    selects_activations = True
    # Six rows would spill registers at each group.
    tile_rows = 4

    def unpack(self, words: Expr, step: int) -> Expr:
        packed = T.reinterpret("uint8x16", words)
        if step == 0:
            nibbles = T.bitwise_and(packed, splat(T.uint8(15), 16))
        else:
            # Shifted as bytes, they need no mask.
            nibbles = T.shift_right(packed, splat(T.uint8(4), 16))
        return T.reinterpret("int32x4", nibbles)

    def unpack_for_panel(self, words: Expr) -> list[list[Expr]]:
        return [[T.reinterpret("int32x4", self.without_zero_point(words, step))] for step in range(self.steps)]

    def without_zero_point(self, words: Expr, step: int) -> Expr:
        """The weights of one step: int8, 16 lanes."""
        nibbles = T.reinterpret("int8x16", self.unpack(words, step))
        return T.bind(nibbles - splat(T.int8(self.zero_point), 16))

    def multiply_add(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        nibbles, digits = T.reinterpret("int8x16", weights), T.reinterpret("int8x16", activations)
        return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", accumulator, nibbles, digits)


class NeonI8mm(NeonDot):
    """Products of matrices of bytes by smmla in prefill, dot products of bytes by sdot in decode."""

    name = "neoni8mm"
    features = ("i8mm", *NeonDot.features)
    block_rows = 2
    selects_activations = False

    def __init__(self, digits: int, otherwise: NeonDot | None = None) -> None:
        super().__init__(digits)
        self.otherwise = otherwise

    @classmethod
    def for_target(cls, target: Target, digits: int, rows: Rows) -> Self:
        return cls(digits, NeonDot(digits) if I8MM_AT_RUN_TIME in target.keys else None)

    def is_there(self) -> Expr:
        # Linux sets the bit if all cores have i8mm; an older one that doesn't know it leaves it 0.
        answer = T.call_extern("uint64", "getauxval", T.uint64(AT_HWCAP2))
        return T.bitwise_and(answer, T.uint64(HWCAP2_I8MM)) != T.uint64(0)

    def unpack_for_panel(self, words: Expr) -> list[list[Expr]]:
        even, odd = (self.without_zero_point(words, step) for step in range(self.steps))

        def block(first: int) -> Expr:
            nibbles = [byte for i in range(first, first + self.values_per_word) for byte in (i, 16 + i)]
            return T.reinterpret("int32x4", shuffle([even, odd], nibbles))

        return [[block(0), block(self.values_per_word)]]

    def pack_for_panel(self, x: Expr) -> list[list[Expr]]:
        digits, size = T.bind(self.quantizer.split(x)), self.values_per_word

        def word(digit: int, first: int) -> Expr:
            return T.reinterpret("int32x2", self.quantizer.select(digits, digit, range(first, first + size)))

        firsts = range(0, lanes_of(x), size)
        return [[word(digit, first) for first in firsts] for digit in reversed(range(self.digits))]

    def multiply_add_block(self, accumulator: Expr, weights: Expr, activations: Expr) -> Expr:
        digits, nibbles = T.reinterpret("int8x16", activations), T.reinterpret("int8x16", weights)
        return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.smmla.v4i32.v16i8", accumulator, digits, nibbles)

    def row_of_blocks(self, blocks: Sequence[Expr], row: int) -> Expr:
        first, second = 2 * row, 2 * row + 1
        return shuffle(blocks, [first, second, self.lanes + first, self.lanes + second])
