"""The values of integer expressions in a kernel, over all of its threads and loops.

`Bounds` tells between which numbers they lie and how many different ones there are at most, which takes no longer for
more threads. `Grid` computes all of them.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import Call
from tvm.tirx import Expr, Var

from edge_transact.compiler.launches import value

LARGEST_GRID = 1 << 20
"""How many values a `Grid` computes at most."""


class Unknown(Exception):
    """An expression depends on data, or has more values than `LARGEST_GRID`."""


@dataclass(frozen=True)
class Values:
    """At most `count` different integers, from `low` to `high`.

    Attributes:
        count: How many there are at most.
        low: The smallest; `None` if it depends on data, such as the row of a token in the embedding.
        high: The largest; `None` as `low`.
        origin: What they were computed from, if they depend on data: equal origins are equal values.
    """

    count: int
    low: int | None
    high: int | None
    origin: Hashable = None

    @classmethod
    def between(cls, low: int, high: int, count: int | None = None) -> Values:
        """All integers from `low` to `high`, or at most `count` of them."""
        size = high - low + 1
        return cls(size if count is None else min(count, size), low, high)

    @property
    def span(self) -> int:
        """How many integers there are from `low` to `high`."""
        assert self.low is not None and self.high is not None
        return self.high - self.low + 1

    @property
    def point(self) -> int | None:
        """The value, if there is one alone, and it is known."""
        return self.low if self.low is not None and self.low == self.high else None

    def within(self, size: int) -> Values:
        """Those of them that are indices of an array of `size` elements."""
        if self.low is None or self.high is None:
            return Values(min(self.count, size), None, None, self.origin)
        low, high = max(self.low, 0), min(self.high, size - 1)
        return Values.between(low, high, self.count) if low <= high else Values(0, 0, -1)

    def widened(self, lanes: int) -> Values:
        """The indices that vectors of so many lanes touch, which begin at these."""
        if self.low is None or self.high is None:
            return Values(self.count * lanes, None, None, ("lanes", lanes, self.origin))
        return Values.between(self.low, self.high + lanes - 1, self.count * lanes)

    def _combine(self, name: str, other: Values, of: Callable[[int, int], int], count: int | None = None) -> Values:
        count = self.count * other.count if count is None else count
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return Values(count, None, None, (name, self, other))
        corners = [of(a, b) for a in (self.low, self.high) for b in (other.low, other.high)]
        return Values.between(min(corners), max(corners), count)

    def __add__(self, other: Values) -> Values:
        return self._combine("+", other, operator.add)

    def __sub__(self, other: Values) -> Values:
        return self._combine("-", other, operator.sub)

    def __mul__(self, other: Values) -> Values:
        return self._combine("*", other, operator.mul)

    def __floordiv__(self, other: Values) -> Values:
        if other.low is not None and other.low <= 0:
            return Values(self.count * other.count, None, None, ("//", self, other))
        return self._combine("//", other, operator.floordiv)

    def __mod__(self, other: Values) -> Values:
        divisor = other.point
        if divisor is None or divisor <= 0 or self.low is None or self.high is None:
            return Values(self.count * other.count, None, None, ("%", self, other))
        if self.low // divisor == self.high // divisor:
            return Values.between(self.low % divisor, self.high % divisor, self.count)
        return Values.between(0, divisor - 1, self.count)

    def __and__(self, other: Values) -> Values:
        mask = other.point
        if mask is not None and mask > 1 and mask & (mask + 1) == 0:
            return self % Values.between(mask + 1, mask + 1)
        return self.minimum(other)

    def __or__(self, other: Values) -> Values:
        return self.maximum(other)

    def minimum(self, other: Values) -> Values:
        """The smaller of a value of either."""
        return self._combine("min", other, min, self.count + other.count)

    def maximum(self, other: Values) -> Values:
        """The larger of a value of either."""
        return self._combine("max", other, max, self.count + other.count)

    def joined(self, other: Values) -> Values:
        """A value of either."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return Values(self.count + other.count, None, None, ("either", self, other))
        return Values.between(min(self.low, other.low), max(self.high, other.high), self.count + other.count)

    def less(self, other: Values) -> Values:
        """Whether values are smaller than others: 1, 0 or both."""
        if self.high is not None and other.low is not None and self.high < other.low:
            return TRUE
        if self.low is not None and other.high is not None and self.low >= other.high:
            return FALSE
        return EITHER

    def equal(self, other: Values) -> Values:
        """Whether values are those of the other: 1, 0 or both."""
        if self.point is not None and self.point == other.point:
            return TRUE
        apart = self.less(other) == TRUE or other.less(self) == TRUE
        return FALSE if apart else EITHER


FALSE, TRUE, EITHER = Values.between(0, 0), Values.between(1, 1), Values.between(0, 1)


@dataclass
class Scope:
    """What is known of a kernel's variables.

    Attributes:
        known: Symbolic sizes and scalar arguments.
        loops: The first value and the largest extent of each loop.
        bound: What variables stand for.
        sizes: Below which numbers a block's axes stay, which stand for indices.
        contents: What integer arrays hold, such as a page table.
        stored: The only values that are stored in an array of one integer.
        shapes: Shapes of buffers that were asked for before.
    """

    known: dict[Var, int]
    contents: Mapping[Var, np.ndarray]
    loops: dict[Var, Values] = field(default_factory=dict)
    bound: dict[Var, Expr] = field(default_factory=dict)
    sizes: dict[Var, Expr] = field(default_factory=dict)
    stored: dict[Var, Expr] = field(default_factory=dict)
    shapes: dict[Var, list[int]] = field(default_factory=dict)

    def shape(self, buffer: Var) -> list[int]:
        """The shape of a buffer."""
        if buffer not in self.shapes:
            self.shapes[buffer] = [value(size, self.known) for size in buffer.shape]
        return self.shapes[buffer]


class _Evaluator:
    """Computes an expression from its parts."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def constant(self, number: int) -> Any:
        """A number's value."""
        raise NotImplementedError

    def variable(self, var: Var) -> Any:
        """A variable's value."""
        raise NotImplementedError

    def load(self, load: tirx.BufferLoad) -> Any:
        """The value of an element of an array."""
        raise NotImplementedError

    def unknown(self, expr: Expr) -> Any:
        """The value of an expression of another kind."""
        raise NotImplementedError

    def select(self, condition: Any, yes: Any, no: Any) -> Any:
        """One of two values."""
        raise NotImplementedError

    def _is_remainder(self, expr: tirx.Sub) -> bool:
        """Whether a difference is ``x - quotient(x, y) * y``."""
        product = expr.b
        quotient = self.scope.bound.get(product.a) if isinstance(product, tirx.Mul) else None
        if not (isinstance(quotient, Call) and quotient.op.name == "tirx.call_extern"):
            return False
        name, dividend, divisor = quotient.args[:3]
        return name.value == "quotient" and dividend.same_as(expr.a) and divisor.same_as(product.b)

    def padded(self, index: Any, dims: Any, padding: Any) -> Any:
        """An index with the padding of the heads before it, which have so many dims."""
        return index + index // dims * padding

    def __call__(self, expr: Expr) -> Any:
        match expr:
            case tirx.IntImm():
                return self.constant(int(expr))
            case tirx.Var():
                return self.variable(expr)
            case tirx.BufferLoad():
                return self.load(expr)
            case tirx.Cast():
                return self(expr.value) if is_integer(expr.value) else self.unknown(expr)
            case tirx.Not():
                return self.constant(1) - self(expr.a)
            case tirx.Select():
                return self.select(self(expr.condition), self(expr.true_value), self(expr.false_value))
            case Call() if expr.op.name == "tirx.if_then_else":
                return self.select(*map(self, expr.args))
            case Call() if expr.op.name in _CALLS:
                return _CALLS[expr.op.name](*map(self, expr.args))
            case tirx.Sub() if self._is_remainder(expr):
                return self(expr.a) % self(expr.b.b)
            case Call() if expr.op.name == "tirx.call_extern" and expr.args[0].value == "quotient":
                return self(expr.args[1]) // self(expr.args[2])
            case Call() if expr.op.name == "tirx.call_extern" and expr.args[0].value == "padded_index":
                # Its second argument is 1 / dims.
                index, inverse, padding = expr.args[1:]
                return self.padded(self(index), self(inverse.b), self(padding))
        operation = _OPERATIONS.get(type(expr))
        return self.unknown(expr) if operation is None else operation(self(expr.a), self(expr.b))


class Bounds(_Evaluator):
    """Expressions as `Values`."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.variables: dict[Var, Values] = {}

    def constant(self, number: int) -> Values:
        return Values.between(number, number)

    def variable(self, var: Var) -> Values:
        if var in self.scope.known:
            return self.constant(self.scope.known[var])
        if var in self.scope.loops:
            return self.scope.loops[var]
        if var not in self.scope.bound:
            return self.unknown(var)
        if var not in self.variables:
            values = self(self.scope.bound[var])
            size = self(self.scope.sizes[var]).point if var in self.scope.sizes else None
            self.variables[var] = values if size is None else values.within(size)
        return self.variables[var]

    def load(self, load: tirx.BufferLoad) -> Values:
        buffer = load.buffer
        if buffer in self.scope.stored:
            return self(self.scope.stored[buffer])
        indices = [self(i).within(size) for i, size in zip(load.indices, self.scope.shape(buffer), strict=True)]
        if buffer in self.scope.contents:
            contents = self.scope.contents[buffer]
            (index,) = indices
            part = contents[index.low : index.high + 1] if index.low is not None else contents
            return Values.between(int(part.min()), int(part.max()), index.count)
        return Values(math.prod(index.count for index in indices), None, None, ("load", buffer, *indices))

    def unknown(self, expr: Expr) -> Values:
        inside: list[int] = []

        def visit(node: Any) -> None:
            if isinstance(node, tirx.Var) and node in self.scope.loops:
                inside.append(self.scope.loops[node].count)

        tirx.stmt_functor.post_order_visit(expr, visit)
        return Values(math.prod(inside), None, None, ("unknown", expr))

    def padded(self, index: Values, dims: Values, padding: Values) -> Values:
        values = super().padded(index, dims, padding)
        return replace(values, count=min(values.count, index.count))

    def select(self, condition: Values, yes: Values, no: Values) -> Values:
        return yes if condition == TRUE else no if condition == FALSE else yes.joined(no)


class Grid(_Evaluator):
    """Expressions as arrays with a dimension for each loop that they depend on."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.axes: dict[Var, np.ndarray] = {}

    def mean(self, expr: Expr) -> float:
        """The mean over all threads and iterations.

        Raises:
            Unknown: There is no telling, or it would take too long.
        """
        self.axes = {}
        return float(np.mean(self(expr)))

    def distinct(self, indices: Sequence[Expr], shape: Sequence[int]) -> int:
        """How many elements of an array these indices name.

        Raises:
            Unknown: As `mean`.
        """
        self.axes = {}
        flat = 0
        for index, size in zip(indices, shape, strict=True):
            flat = flat * size + self(index)
        return np.unique(flat).size

    def constant(self, number: int) -> int:
        return number

    def variable(self, var: Var) -> Any:
        if var in self.scope.known:
            return self.scope.known[var]
        if var in self.scope.loops and var not in self.axes:
            values = self.scope.loops[var]
            if values.low is None or values.high is None or values.span * self._size > LARGEST_GRID:
                raise Unknown(var)
            self.axes[var] = np.arange(values.low, values.high + 1).reshape(-1, *[1] * len(self.axes))
        if var in self.axes:
            return self.axes[var]
        return self(self.scope.bound[var]) if var in self.scope.bound else self.unknown(var)

    @property
    def _size(self) -> int:
        return math.prod(axis.size for axis in self.axes.values())

    def load(self, load: tirx.BufferLoad) -> Any:
        if load.buffer in self.scope.stored:
            return self(self.scope.stored[load.buffer])
        if load.buffer not in self.scope.contents:
            raise Unknown(load)
        contents = self.scope.contents[load.buffer]
        return contents[np.clip(self(load.indices[0]), 0, len(contents) - 1)]

    def unknown(self, expr: Expr) -> Any:
        raise Unknown(expr)

    def select(self, condition: Any, yes: Any, no: Any) -> Any:
        return np.where(condition, yes, no)


def is_integer(expr: Expr) -> bool:
    """Whether an expression's value is one integer or a truth value."""
    dtype = str(expr.ty.dtype) if hasattr(expr.ty, "dtype") else ""
    return dtype.startswith(("int", "uint", "bool")) and "x" not in dtype


def _either(name: str, of_arrays: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: getattr(a, name)(b) if isinstance(a, Values) else of_arrays(a, b)


def _negated(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def negated(a: Any, b: Any) -> Any:
        result = operation(a, b)
        return TRUE - result if isinstance(result, Values) else np.logical_not(result)

    return negated


_LESS, _EQUAL = _either("less", operator.lt), _either("equal", operator.eq)
_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    tirx.Add: operator.add,
    tirx.Sub: operator.sub,
    tirx.Mul: operator.mul,
    tirx.FloorDiv: operator.floordiv,
    tirx.FloorMod: operator.mod,
    tirx.Div: operator.floordiv,
    tirx.Mod: operator.mod,
    tirx.Min: _either("minimum", np.minimum),
    tirx.Max: _either("maximum", np.maximum),
    tirx.LT: _LESS,
    tirx.GT: lambda a, b: _LESS(b, a),
    tirx.GE: _negated(_LESS),
    tirx.LE: lambda a, b: _negated(_LESS)(b, a),
    tirx.EQ: _EQUAL,
    tirx.NE: _negated(_EQUAL),
    tirx.And: operator.and_,
    tirx.Or: operator.or_,
}


def _shifted_left(a: Any, b: Any) -> Any:
    return a * _power(b) if isinstance(a, Values) else np.left_shift(a, b)


def _shifted_right(a: Any, b: Any) -> Any:
    return a // _power(b) if isinstance(a, Values) else np.right_shift(a, b)


def _power(exponent: Values) -> Values:
    if exponent.low is None or exponent.high is None:
        return Values(exponent.count, None, None, ("2 **", exponent))
    return Values.between(2**exponent.low, 2**exponent.high, exponent.count)


_CALLS: dict[str, Callable[..., Any]] = {
    "tirx.shift_left": _shifted_left,
    "tirx.shift_right": _shifted_right,
    "tirx.bitwise_and": operator.and_,
}
