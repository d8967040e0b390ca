"""The vector instructions that the CPU kernels are made of, one class per instruction set.

A packed word (uint32) holds eight 4-bit weights along the input features. A kernel takes a vector of `lanes` words and
turns it into products in `steps` steps: step `i` makes of every word one 32-bit *unit* of weights, and multiplies and
adds it with a unit of activations. What a unit is belongs to the instruction set:

- `Fp32`: nibble `i` as fp32, converted where it stands; eight steps. Any LLVM target.
- `Avx512`: weight `i` as fp32, from a table in a register.
- `Avx512Vnni`, `NeonDot`: nibbles `i`, `i + 2`, `i + 4` and `i + 6` as bytes; two steps, four products a lane.

Where products are of bytes, an activation is a whole number of 16 or 22 bits, times a quantum that its group of 32
shares; it has two or three *terms*, its digits to the base 256, and its products are summed exactly. All else
accumulates in fp32, and the scale of a group is applied, in fp32, to the group's sum: no weight is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script import tirx as T
from tvm.target import Target, codegen

from edge_transact.compiler.vector import cast, lanes_of, max_magnitude, shuffle, splat, sum_lanes
from edge_transact.quantization import GROUP_SIZE, VALUES_PER_WORD, WORDS_PER_GROUP, ZERO_POINT

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
        whole: Whether the units of activations are whole numbers, and sums int32 until `products` returns them.
    """

    name = "fp32"
    features: tuple[str, ...] = ()
    steps = VALUES_PER_WORD
    terms = 1
    centered = False
    whole = False
    lanes: int

    def __init__(self, lanes: int = 4) -> None:
        self.lanes = lanes

    @property
    def sum_dtype(self) -> str:
        """What products are summed up in, and begin with."""
        return "int32" if self.whole else "float32"

    def prepare(self) -> None:
        """Emit what the steps need, once, inside a thread's body."""

    def weights(self, words: Any, step: int) -> Any:
        """The units of a step, int32 lanes; of the nibbles themselves, unless they are `centered`."""
        lanes = lanes_of(words)
        half = _shifted(words, 16 * (step // 4), 32)
        nibbles = T.bitwise_and(half, splat(T.uint32(15 * _PLACES[step]), lanes))
        return T.reinterpret(f"int32x{lanes}", cast("float32", cast("int32", nibbles)))

    def panel_weights(self, words: Any, step: int) -> Any:
        """The units of a step as prefill keeps them, int32 lanes: 7 taken away, unless they are `whole`."""
        lanes = lanes_of(words)
        nibbles = T.reinterpret(f"float32x{lanes}", self.weights(words, step))
        return T.reinterpret(f"int32x{lanes}", nibbles - splat(T.float32(ZERO_POINT * _PLACES[step]), lanes))

    def multiply_add(self, total: Any, weights: Any, activations: Any) -> Any:
        """``total + weights * activations``, unit by unit; fp32 lanes."""
        dtype = f"float32x{lanes_of(total)}"
        return total + T.reinterpret(dtype, weights) * T.reinterpret(dtype, activations)

    def products(self, start: Any, words: Sequence[Any], units: Sequence[Sequence[Sequence[Any]]]) -> Any:
        """Vectors of words times their units, added up: fp32 lanes.

        Args:
            start: What the sums begin with, fp32 lanes, or int32 ones of `whole` numbers.
            words: uint32 lanes.
            units: By word, step and term, int32 lanes.
        """
        parts = [start, splat(T.float32(0), lanes_of(start))][: len(words)]
        turn = 0
        for of_word, units_of_word in zip(words, units, strict=True):
            for step, terms in enumerate(units_of_word):
                weights = T.bind(self.weights(of_word, step))
                for unit in terms:
                    parts[turn] = T.bind(self.multiply_add(parts[turn], weights, unit))
                    turn = (turn + 1) % len(parts)
        return sum(parts[1:], parts[0])

    def next_term(self, total: Any) -> Any:
        """A sum of the units of one term as the sum of the next one's goes on with it."""
        raise NotImplementedError

    def quantum(self, x: Any) -> Any:
        """What a group's activations, fp32, 32 lanes, are counted in where units are `whole` numbers."""
        raise NotImplementedError

    def starts(self, x: Any) -> Any:
        """What the sums of each word's products begin with, where weights aren't `centered`.

        Args:
            x: The activations of a group, fp32, 32 lanes, in quanta where units are `whole` numbers.
        """
        return splat(T.float32(-ZERO_POINT), WORDS_PER_GROUP) * _sums(x)

    def units(self, x: Any) -> list[list[Any]]:
        """The units of a group's activations, by term and step: int32, a lane for each word.

        Args:
            x: fp32, 32 lanes, in quanta where units are `whole` numbers.
        """
        return [
            [
                T.reinterpret("int32x4", _of_words(x, step) * splat(T.float32(1 / place), WORDS_PER_GROUP))
                for step, place in enumerate(_PLACES)
            ]
        ]


class Avx512(Fp32):
    """AVX-512 without dot products of bytes: the weight is looked up in a register of 16 fp32."""

    name = "avx512"
    features: tuple[str, ...] = ("avx512f", "avx512bw", "avx512vl", "avx512dq")
    centered = True

    def __init__(self) -> None:
        super().__init__(16)

    def prepare(self) -> None:
        self._table = T.bind(T.Cast("float32x16", T.ramp(T.int32(-ZERO_POINT), 1, 16)))

    def units(self, x: Any) -> list[list[Any]]:
        return [[T.reinterpret("int32x4", _of_words(x, step)) for step in range(self.steps)]]

    def weights(self, words: Any, step: int) -> Any:
        # vpermps reads the low four bits of an index, so nothing has to be masked.
        index = T.reinterpret("int32x16", _shifted(words, 4 * step, 32))
        looked_up = T.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.permvar.sf.512", self._table, index)
        return T.reinterpret("int32x16", looked_up)

    panel_weights = weights


class Bytes(Fp32):
    """Dot products of four bytes with four others, summed exactly: activations are whole numbers, times a quantum.

    A unit of weights is four nibbles as they are, and one of activations a digit of four whole numbers, to the base
    256 and signed.

    Args:
        terms: Digits of an activation: two are 16 bits, three 22.
    """

    steps = 2
    whole = True

    def __init__(self, terms: int) -> None:
        self.terms = terms
        # Digits reach from -128 to 127; and 32 products of a whole number with nibbles fit into an int32.
        self.largest = min(127 * sum(256**i for i in range(terms)), (1 << 21) - 1)

    def quantum(self, x: Any) -> Any:
        return T.max(max_magnitude(x), T.float32(1e-30)) * T.float32(1 / self.largest)

    def weights(self, words: Any, step: int) -> Any:
        lanes = lanes_of(words)
        nibbles = T.bitwise_and(_shifted(words, 4 * step, 32), splat(T.uint32(0x0F0F0F0F), lanes))
        return T.reinterpret(f"int32x{lanes}", nibbles)

    panel_weights = weights

    def products(self, start: Any, words: Sequence[Any], units: Sequence[Sequence[Sequence[Any]]]) -> Any:
        parts = [splat(T.int32(0), lanes_of(start))] * (self.terms - 1) + [start]
        for of_word, units_of_word in zip(words, units, strict=True):
            for step, terms in enumerate(units_of_word):
                weights = T.bind(self.weights(of_word, step))
                parts = [
                    T.bind(self.multiply_add(part, weights, unit)) for part, unit in zip(parts, terms, strict=True)
                ]
        total = parts[0]
        for part in parts[1:]:
            total = self.next_term(total) + part
        return cast("float32", total)

    def next_term(self, total: Any) -> Any:
        return T.shift_left(total, splat(T.int32(8), lanes_of(total)))

    def starts(self, x: Any) -> Any:
        return splat(T.int32(-ZERO_POINT), WORDS_PER_GROUP) * _sums(T.bind(_nearest(x)))

    def units(self, x: Any) -> list[list[Any]]:
        # With 128 added to each digit there are no borrows; then digits are signed again.
        halves = splat(T.int32(128 * sum(256**i for i in range(self.terms))), GROUP_SIZE)
        digits = T.bind(T.reinterpret("int8x128", T.bitwise_xor(_nearest(x) + halves, halves)))

        def unit(digit: int, step: int) -> Any:
            return T.reinterpret("int32x4", shuffle([digits], [4 * i + digit for i in range(step, GROUP_SIZE, 2)]))

        return [[unit(digit, step) for step in range(self.steps)] for digit in reversed(range(self.terms))]


class Avx512Vnni(Bytes):
    """AVX-512 with dot products of bytes, vpdpbusd."""

    name = "avx512vnni"
    features = ("avx512vnni", *Avx512.features)
    lanes = 16

    def multiply_add(self, total: Any, weights: Any, activations: Any) -> Any:
        nibbles, digits = T.reinterpret("int8x64", weights), T.reinterpret("int8x64", activations)
        return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", total, nibbles, digits)


class NeonDot(Bytes):
    """NEON with dot products of bytes, sdot."""

    name = "neondot"
    features = ("dotprod",)
    lanes = 4

    def multiply_add(self, total: Any, weights: Any, activations: Any) -> Any:
        nibbles, digits = T.reinterpret("int8x16", weights), T.reinterpret("int8x16", activations)
        return T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", total, nibbles, digits)


def _of_words(x: Any, i: int) -> Any:
    """Of a group's activations, number `i` of each word."""
    return shuffle([x], range(i, GROUP_SIZE, VALUES_PER_WORD))


def _sums(x: Any) -> Any:
    """The sum over each word of a group's activations."""
    return sum_lanes([shuffle([x], range(i, i + VALUES_PER_WORD)) for i in range(0, GROUP_SIZE, VALUES_PER_WORD)])


def _nearest(x: Any) -> Any:
    return cast("int32", T.nearbyint(x))


def _shifted(words: Any, bits: int, width: int) -> Any:
    if bits == 0:
        return words
    amount = T.uint32(bits) if width == 32 else T.uint16(bits)
    return T.shift_right(words, splat(amount, lanes_of(words)))


def select(target: Target, terms: int) -> Fp32:
    """The best instruction set that a target's ``-mcpu`` and ``-mattr`` have.

    Args:
        target: An ``llvm`` target.
        terms: Digits of an activation, where the instruction set multiplies bytes: 2 keep 16 bits, 3 keep 22.
    """

    def has(isa: type[Fp32]) -> bool:
        return codegen.llvm_cpu_has_features(list(isa.features), target)

    on_arm = "aarch64" in str(target.attrs.get("mtriple", ""))
    if on_arm:
        return NeonDot(terms) if has(NeonDot) else Fp32(4)
    if has(Avx512Vnni):
        return Avx512Vnni(terms)
    return Avx512() if has(Avx512) else Fp32(8)
