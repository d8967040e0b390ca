"""The vector instructions that the CPU kernels are made of, one class per instruction set.

A packed word (uint32) holds eight 4-bit weights along the input features. A kernel takes a vector of `lanes` words and
turns it into products in `steps` steps: step `i` makes of every word one 32-bit *unit* of weights, and multiplies and
adds it with a unit of activations. What a unit is belongs to the instruction set:

- `Fp32`: nibble `i` as fp32, converted where it stands; eight steps. Any LLVM target.
- `Avx512`: weight `i` as fp32, from a table in a register.
- `Avx512Bf16`: weights `i` and `i + 4` as bf16; four steps, two products a lane.

A weight is its nibble minus 7, a whole number, exact in bf16. An activation becomes `terms` bf16 numbers
(``x = hi + lo``): two terms keep 16 bits of mantissa. Products accumulate in fp32, and the scale of a group is applied,
in fp32, to the group's sum: no weight is rounded.
"""

from __future__ import annotations

import struct
from typing import Any

from tvm import tirx
from tvm.script import tirx as T
from tvm.target import Target, codegen

from edge_transact.engine.cpu.vector import bf16_bits, cast, from_bf16_bits, lanes_of, load, shuffle, splat
from edge_transact.quantization import VALUES_PER_WORD

ZERO_POINT = 7
"""What is subtracted from a packed nibble (MLC's ``group_quantization.py``)."""

_PLACES = (1, 16, 256, 4096) * 2
"""What `Fp32` has each nibble of a word times: those of the upper half are shifted down by 16 bits, all at once."""


class Fp32:
    """Plain TIR, for any LLVM target: units of one fp32.

    A unit of weights is a nibble where it stands in its half of the word, that is, times a power of 16, and one of
    activations is divided by it: both are exact. What the nibbles have too much, 7 times the activations, is taken from
    the sums at their beginning.

    Args:
        lanes: Words in a vector.

    Attributes:
        centered: Whether `weights` has 7 taken away already.
    """

    name = "fp32"
    features: tuple[str, ...] = ()
    llvm_ir = ""
    steps = VALUES_PER_WORD
    terms = 1
    centered = False

    def __init__(self, lanes: int = 4) -> None:
        self.lanes = lanes

    def prepare(self) -> None:
        """Emit what the steps need, once, inside a thread's body."""

    def weights(self, words: Any, step: int) -> Any:
        """The units of a step, int32 lanes; of the nibbles themselves, unless they are `centered`."""
        lanes = lanes_of(words)
        half = _shifted(words, 16 * (step // 4), 32)
        nibbles = T.bitwise_and(half, splat(T.uint32(15 * _PLACES[step]), lanes))
        return T.reinterpret(f"int32x{lanes}", cast("float32", cast("int32", nibbles)))

    def centered_weights(self, words: Any, step: int) -> Any:
        """The units of a step, int32 lanes, 7 taken away."""
        lanes = lanes_of(words)
        nibbles = T.reinterpret(f"float32x{lanes}", self.weights(words, step))
        return T.reinterpret(f"int32x{lanes}", nibbles - splat(T.float32(ZERO_POINT * _PLACES[step]), lanes))

    def multiply_add(self, total: Any, weights: Any, activations: Any) -> Any:
        """``total + weights * activations``, unit by unit; fp32 lanes."""
        dtype = f"float32x{lanes_of(total)}"
        return total + T.reinterpret(dtype, weights) * T.reinterpret(dtype, activations)

    def units(self, x: Any) -> list[Any]:
        """The units of the eight activations of one word: for each term, int32 of `steps` lanes.

        Args:
            x: fp32, 8 lanes.
        """
        places = tirx.Shuffle([T.float32(1 / place) for place in _PLACES], [T.int32(i) for i in range(len(_PLACES))])
        return [T.reinterpret("int32x8", x * places)]


class Avx512(Fp32):
    """AVX-512 without bf16: the weight is looked up in a register of 16 fp32."""

    name = "avx512"
    features: tuple[str, ...] = ("avx512f", "avx512bw", "avx512vl", "avx512dq")
    centered = True

    def __init__(self) -> None:
        super().__init__(16)

    def prepare(self) -> None:
        self._table = T.bind(T.Cast("float32x16", T.ramp(T.int32(-ZERO_POINT), 1, 16)))

    def units(self, x: Any) -> list[Any]:
        return [T.reinterpret("int32x8", x)]

    def weights(self, words: Any, step: int) -> Any:
        # vpermps reads the low four bits of an index, so nothing has to be masked.
        index = T.reinterpret("int32x16", _shifted(words, 4 * step, 32))
        looked_up = T.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.permvar.sf.512", self._table, index)
        return T.reinterpret("int32x16", looked_up)

    centered_weights = weights


class Avx512Bf16(Avx512):
    """AVX-512 with bf16 dot products: pairs looked up by vpermw, multiplied and added by vdpbf16ps.

    Args:
        terms: bf16 numbers that an activation is split into.
    """

    name = "avx512bf16"
    features = ("avx512bf16", *Avx512.features)
    steps = 4
    # TVM lowers bf16 away before LLVM sees it, so the one instruction on bf16 is written in LLVM's language.
    llvm_ir = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define linkonce_odr <16 x float> @edge_transact_dpbf16ps(<16 x float> %c, <16 x i32> %a, <16 x i32> %b) alwaysinline {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %d = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %c, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %d
}
"""

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.terms = terms

    def prepare(self) -> None:
        # vpermw reads the low five bits of an index: the 16 values twice, and the fifth bit, of the next nibble,
        # does no harm.
        table = T.alloc_buffer((32,), "uint16", scope="local")
        for i in range(32):
            T.buffer_store(table, T.uint16(struct.unpack("<I", struct.pack("<f", i % 16 - ZERO_POINT))[0] >> 16), [i])
        self._table = T.bind(T.reinterpret("int16x32", load(table, [0], 32)))

    def weights(self, words: Any, step: int) -> Any:
        index = T.reinterpret("int16x32", _shifted(T.reinterpret("uint16x32", words), 4 * step, 16))
        looked_up = T.call_llvm_pure_intrin("int16x32", "llvm.x86.avx512.permvar.hi.512", self._table, index)
        return T.reinterpret("int32x16", looked_up)

    centered_weights = weights

    def multiply_add(self, total: Any, weights: Any, activations: Any) -> Any:
        return T.call_pure_extern("float32x16", "edge_transact_dpbf16ps", total, weights, activations)

    def units(self, x: Any) -> list[Any]:
        units, rest = [], x
        for term in range(self.terms):
            bits = T.bind(bf16_bits(rest))
            if term + 1 < self.terms:
                rest = T.bind(rest - from_bf16_bits(bits))
            low, high = shuffle([bits], range(4)), shuffle([bits], range(4, 8))
            pair = T.bitwise_or(low, T.shift_left(high, splat(T.uint32(16), 4)))
            units.append(T.reinterpret("int32x4", pair))
        return units


def _shifted(words: Any, bits: int, width: int) -> Any:
    if bits == 0:
        return words
    amount = T.uint32(bits) if width == 32 else T.uint16(bits)
    return T.shift_right(words, splat(amount, lanes_of(words)))


def select(target: Target, terms: int) -> Fp32:
    """The best instruction set that a target's ``-mcpu`` and ``-mattr`` have.

    Args:
        target: An ``llvm`` target.
        terms: bf16 numbers for an activation, where the instruction set multiplies bf16: 2 keep 16 bits, 1 keeps 8.
    """
    if codegen.llvm_cpu_has_features(list(Avx512Bf16.features), target):
        return Avx512Bf16(terms)
    if codegen.llvm_cpu_has_features(list(Avx512.features), target):
        return Avx512()
    return Fp32(4 if "aarch64" in str(target.attrs.get("mtriple", "")) else 8)
