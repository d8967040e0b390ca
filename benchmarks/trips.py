"""How often the loops of a GPU kernel run in one launch: its TIR, interpreted with the arguments of the launch.

One thread of the first work group is followed.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import tirx

BINARY: dict[type, Callable[[Any, Any], Any]] = {
    tirx.Add: operator.add,
    tirx.Sub: operator.sub,
    tirx.Mul: operator.mul,
    tirx.Div: lambda a, b: int(a / b),
    tirx.Mod: lambda a, b: a - int(a / b) * b,
    tirx.FloorDiv: operator.floordiv,
    tirx.FloorMod: operator.mod,
    tirx.Min: min,
    tirx.Max: max,
    tirx.EQ: operator.eq,
    tirx.NE: operator.ne,
    tirx.LT: operator.lt,
    tirx.LE: operator.le,
    tirx.GT: operator.gt,
    tirx.GE: operator.ge,
    tirx.And: lambda a, b: a and b,
    tirx.Or: lambda a, b: a or b,
}
CALLS: dict[str, Callable[..., Any]] = {
    "tirx.shift_right": operator.rshift,
    "tirx.shift_left": operator.lshift,
    "tirx.bitwise_and": operator.and_,
    "tirx.bitwise_or": operator.or_,
    "tirx.if_then_else": lambda condition, a, b: a if condition else b,
    "tirx.tvm_thread_invariant": lambda value: value,
    # Of w4.cl.
    "quotient": operator.floordiv,
}


@dataclass(frozen=True)
class Loop:
    """A loop of a kernel.

    Attributes:
        turns: How often it runs, each time that it is reached.
        constant: Whether it always runs that often, so that a compiler may unroll it.
        inner: The loops inside it.
    """

    turns: int
    constant: bool
    inner: tuple[Loop, ...] = ()


class _Unknown(Exception):
    """The value depends on what a kernel computes from activations."""


def loops(function: tirx.PrimFunc, arguments: Sequence[Any], thread: Mapping[str, int]) -> tuple[Loop, ...]:
    """The loops of a kernel, in its order.

    Args:
        function: As code is generated from it: its parameters are the kernel's.
        arguments: Numbers, and for pointers, addresses of int32 arrays where loops depend on them.
        thread: The thread's indices in its work group by axis: ``threadIdx.x`` and so on; 0 where there is none.
    """
    return tuple(_Thread(dict(zip(function.params, arguments, strict=True)), thread).run(function.body))


class _Thread:
    """Variables and own memory of a thread."""

    def __init__(self, variables: dict[tirx.Var, Any], indices: Mapping[str, int]) -> None:
        self.variables, self.indices = variables, indices
        self.memory: dict[tuple[Any, int | None], Any] = {}

    def run(self, statement: tirx.Stmt | None) -> list[Loop]:
        """Execute a statement and return its loops."""
        match statement:
            case tirx.SeqStmt():
                return [loop for part in statement.seq for loop in self.run(part)]
            case tirx.AttrStmt():
                if statement.attr_key == "thread_extent":
                    self.variables[statement.node.var] = self.indices.get(str(statement.node.thread_tag), 0)
                return self.run(statement.body)
            case tirx.Bind():
                self.variables[statement.var] = self.known(statement.value)
            case tirx.DeclBuffer():
                self.variables[statement.buffer] = self.known(statement.data)
            case tirx.BufferStore():
                index = self.known(statement.indices[0])
                self.memory[statement.buffer, index] = self.known(statement.value)
            case tirx.IfThenElse():
                # What isn't known happens.
                taken = self.known(statement.condition)
                return self.run(statement.then_case if taken or taken is None else statement.else_case)
            case tirx.For():
                self.variables[statement.loop_var] = self.known(statement.min)
                turns, inner = self.value(statement.extent), self.run(statement.body)
                return [Loop(int(turns), isinstance(statement.extent, tirx.IntImm), tuple(inner))]
            case tirx.While():
                return [Loop(1, False, tuple(self.run(statement.body)))]
        return []

    def known(self, expression: tirx.Expr) -> Any:
        """The value of an expression, or None."""
        try:
            return self.value(expression)
        except _Unknown:
            return None

    def value(self, expression: tirx.Expr) -> Any:
        """The value of an expression."""
        match expression:
            case tirx.IntImm() | tirx.FloatImm():
                return expression.value
            case tirx.Var():
                found = self.variables.get(expression)
            case tirx.BufferLoad():
                found = self._load(expression.buffer, self.value(expression.indices[0]))
            case tirx.Cast() if expression.ty.dtype.lanes == 1:
                found = np.dtype(str(expression.ty.dtype)).type(self.value(expression.value)).item()
            case tirx.Select():
                branch = expression.true_value if self.value(expression.condition) else expression.false_value
                found = self.value(branch)
            case tirx.Not():
                found = not self.value(expression.a)
            case tvm.ir.Call():
                name, arguments = getattr(expression.op, "name", ""), list(expression.args)
                if name == "tirx.call_extern":
                    name = arguments.pop(0).value
                if name not in CALLS:
                    raise _Unknown(expression)
                found = CALLS[name](*(self.value(argument) for argument in arguments))
            case _ if type(expression) in BINARY:
                found = BINARY[type(expression)](self.value(expression.a), self.value(expression.b))
            case _:
                raise _Unknown(expression)
        if found is None:
            raise _Unknown(expression)
        return found

    def _load(self, buffer: tirx.Buffer, index: int) -> Any:
        address = self.variables.get(buffer)
        if address is not None and str(buffer.dtype) == "int32":
            return ctypes.c_int32.from_address(address + 4 * index).value
        return self.memory.get((buffer, index))
