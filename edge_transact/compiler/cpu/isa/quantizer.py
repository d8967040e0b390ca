"""Activations as integers, for instructions that multiply integers."""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.vector import cast, lanes_of, max_magnitude, shuffle, splat


class ActivationQuantizer:
    """Activations as integers with one fp32 scale per group, in 2 (16 bits) or 3 (22 bits) signed digits to base 256.

    The largest activation of each group has the magnitude `max_integer`.
    """

    def __init__(self, digits: int) -> None:
        self.digits = digits
        # Digits go from -128 to 127, and the sum of 32 products of an integer and a nibble must fit in an int32.
        self.max_integer = min(127 * sum(256**i for i in range(digits)), (1 << 21) - 1)

    def scale(self, x: Expr) -> Expr:
        """The scale of a group's activations `x`, fp32, 32 lanes."""
        # Added, not max: the larger of NaN and a number is the number, and overflow must not look finite.
        return (max_magnitude(x) + T.float32(1e-30)) * T.float32(1 / self.max_integer)

    def round(self, x: Expr) -> Expr:
        """Activations in multiples of their scale to the nearest integers, int32."""
        return cast("int32", T.nearbyint(x))

    def split(self, x: Expr) -> Expr:
        """The digits of a group's activations, in multiples of their scale: four int8 each, the lowest digit first."""
        # Adding 128 to each digit avoids borrows; flipping its top bit takes the 128 away again.
        halves = splat(T.int32(128 * sum(256**i for i in range(self.digits))), lanes_of(x))
        return T.reinterpret("int8x128", T.bitwise_xor(self.round(x) + halves, halves))

    def select(self, digits: Expr, digit: int, activations: range) -> Expr:
        """One digit of some activations, from the result of `split`."""
        return shuffle([digits], [4 * i + digit for i in activations])

    def next_digit(self, accumulator: Expr) -> Expr:
        """An accumulator of one digit's products, ready for those of the digit below: times 256."""
        return T.shift_left(accumulator, splat(T.int32(8), lanes_of(accumulator)))
