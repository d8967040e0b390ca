"""What one launch of a GPU kernel reads, writes and computes.

Bytes are those of the different elements that a launch touches in each buffer, however often it does: what moves if
caches hold the rest. They are never fewer than that. They may be more where several accesses share elements, or where
elements lie scattered in a range, but never more than the buffer has.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tvm import tirx
from tvm.ir import Call
from tvm.tirx import Buffer, Expr, Stmt, Var

from edge_transact.compiler.launches import Launch, argument_sizes, buffer_bytes, launches
from edge_transact.compiler.traffic.values import FALSE, TRUE, Bounds, Grid, Scope, Unknown, Values, is_integer
from edge_transact.errors import EdgeTransactError

EXTERN_FLOPS = {"scaled": 8, "w4_tile": 2 * 8 * 16}
"""FLOPs of functions in ``gpu/w4.cl``, by their names without the dtype, unless they are two for each lane."""

FEW_TURNS = 1 << 12
"""How often an access may be executed for its elements to be counted one by one."""

_FLOATING = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div)
_SUFFIX = re.compile(r"_(half|float|uint)\d*$")


@dataclass(frozen=True)
class Traffic:
    """What one launch does.

    Attributes:
        groups: Work groups along x, y and z.
        threads: Threads of a group along x, y and z.
        read: Bytes read from each buffer in global memory; a parameter's buffer is the parameter.
        written: Bytes written, likewise.
        flops: Floating-point operations; one for each addition, multiplication, division or function.
    """

    groups: tuple[int, int, int]
    threads: tuple[int, int, int]
    read: dict[Buffer, int]
    written: dict[Buffer, int]
    flops: int


def traffic(
    function: tirx.PrimFunc, arguments: Sequence[Sequence[int] | int], contents: Mapping[int, Sequence[int]]
) -> list[Traffic]:
    """What each kernel of a function does in one call.

    Args:
        function: Scheduled.
        arguments: A tensor's shape, or an integer's value.
        contents: What integer tensors hold, by the argument's position. Elements of others may have any value.
    """
    known = argument_sizes(function, arguments)
    scope = Scope(known, {function.params[i]: np.array(numbers) for i, numbers in contents.items()})
    walk = _Walk(scope, function)
    walk.visit(function.body)
    found = launches(function).kernels
    return [_of(launch, counted, known) for launch, counted in zip(found, walk.kernels, strict=True)]


@dataclass
class _Counted:
    """How many elements of each buffer the accesses of a kernel touch at most, added up."""

    read: dict[Buffer, int] = field(default_factory=dict)
    written: dict[Buffer, int] = field(default_factory=dict)
    flops: float = 0.0


def _of(launch: Launch, counted: _Counted, sizes: Mapping[Var, int]) -> Traffic:
    def touched(elements: Mapping[Buffer, int]) -> dict[Buffer, int]:
        """Bytes, at most all of a buffer."""
        return {
            buffer: min(count * buffer.dtype.bits * buffer.dtype.lanes // 8, buffer_bytes(buffer, sizes))
            for buffer, count in elements.items()
        }

    read, written = touched(counted.read), touched(counted.written)
    return Traffic(launch.groups(sizes), launch.threads(sizes), read, written, round(counted.flops))


class _Walk:
    """Visits what a function's kernels execute."""

    def __init__(self, scope: Scope, function: tirx.PrimFunc) -> None:
        self.scope, self.bounds, self.grid = scope, Bounds(scope), Grid(scope)
        self.kernels: list[_Counted] = []
        self.inside: _Counted | None = None
        # How often all threads together come by the statement, and the share of that in which conditions hold.
        self.turns, self.share = 1, 1.0
        self.conditions: list[Expr] = []
        self.name = str(function.attrs.get("global_symbol", "a kernel"))
        stored: dict[Var, list[Expr]] = {}

        def collect(node: Any) -> None:
            if isinstance(node, tirx.BufferStore) and math.prod(map(_length, node.buffer.shape)) == 1:
                stored.setdefault(node.buffer, []).append(node.value)

        tirx.stmt_functor.post_order_visit(function.body, collect)
        scope.stored |= {
            buffer: values[0] for buffer, values in stored.items() if len(values) == 1 and is_integer(values[0])
        }

    def visit(self, node: Any) -> None:
        """A statement or an expression."""
        match node:
            case tirx.SeqStmt():
                for statement in node.seq:
                    self.visit(statement)
            case tirx.Bind():
                self.visit(node.value)
                self.scope.bound[node.var] = node.value
            case tirx.Evaluate():
                self.visit(node.value)
            case tirx.For():
                self._loop(node, node.loop_var, node.min, node.extent, node.thread_binding is not None, node.body)
            case tirx.AttrStmt() if node.attr_key == "thread_extent":
                self._loop(node, node.node.var, 0, node.value, True, node.body)
            case tirx.AttrStmt():
                self.visit(node.body)
            case tirx.IfThenElse():
                self.visit(node.condition)
                self._if(node.condition, node.then_case)
                if node.else_case is not None:
                    self._if(tirx.Not(node.condition), node.else_case)
            case tirx.SBlockRealize():
                self._block(node)
            case tirx.BufferStore():
                self._access(node.buffer, node.indices, 1, "written")
                for expr in (*node.indices, node.value):
                    self.visit(expr)
            case tirx.AllocBuffer() | tirx.DeclBuffer():
                pass
            case Stmt():
                raise self._unknown(f"a {type(node).__name__}")
            case _:
                self._expression(node)

    def _loop(self, node: Stmt, var: Var, first: Expr | int, extent: Expr, is_axis: bool, body: Stmt) -> None:
        bounds = self.bounds(extent)
        if bounds.high is None:
            raise self._unknown(f"a loop of {extent} turns")
        start = self.bounds(first) if isinstance(first, Expr) else FALSE
        self.scope.loops[var] = start + Values.between(0, bounds.high - 1)
        outermost = is_axis and self.inside is None
        if outermost:
            self.inside = _Counted()
            self.kernels.append(self.inside)
        before, self.turns = self.turns, self.turns * bounds.high
        if bounds.point is None and isinstance(extent, Expr):
            self._if(var - first < extent, body)
        else:
            self.visit(body)
        self.turns = before
        if outermost:
            self.inside = None

    def _block(self, node: tirx.SBlockRealize) -> None:
        block = node.block
        for axis, index in zip(block.iter_vars, node.iter_values, strict=True):
            self.scope.bound[axis.var], self.scope.sizes[axis.var] = index, axis.dom.extent
        for body in (block.init, block.body):
            if body is not None:
                self._if(node.predicate, body)

    def _if(self, condition: Expr, body: Stmt) -> None:
        """Visit what is executed where a condition holds, besides those around it."""
        bounds = self.bounds(condition)
        if bounds == FALSE:
            return
        if bounds == TRUE:
            self.visit(body)
            return
        before, self.share = self.share, self.share * self._share(condition)
        self.conditions.append(condition)
        self.visit(body)
        self.conditions.pop()
        self.share = before

    def _share(self, condition: Expr) -> float:
        """In which share of the turns in which `conditions` hold this one does, too; 1 if there is no telling."""
        try:
            if self.conditions:
                with suppress(Unknown):
                    others = self.grid.mean(tirx.all(*self.conditions))
                    return self.grid.mean(tirx.all(*self.conditions, condition)) / others if others else 0.0
            return self.grid.mean(condition)
        except Unknown:
            return 1.0

    def _expression(self, node: Any) -> None:
        lanes = _lanes(node)
        match node:
            case tirx.BufferLoad():
                self._access(node.buffer, node.indices, 1, "read")
                parts = list(node.indices)
            case Call() if node.op.name == "tirx.call_extern":
                self._extern(node)
                return
            case Call() if node.op.name == "tirx.if_then_else":
                condition, yes, no = node.args
                taken = self.bounds(condition)
                parts = [condition, *([yes] if taken != FALSE else []), *([no] if taken != TRUE else [])]
            case Call():
                parts = list(node.args)
                self._compute(lanes if _is_float(node) else 0)
            case tirx.Let():
                self.scope.bound[node.var] = node.value
                parts = [node.value, node.body]
            case tirx.Cast() | tirx.Broadcast():
                parts = [node.value]
            case tirx.Select():
                parts = [node.condition, node.true_value, node.false_value]
            case tirx.Shuffle():
                parts = list(node.vectors)
            case tirx.Not():
                parts = [node.a]
            case tirx.Ramp() | tirx.IntImm() | tirx.FloatImm() | tirx.StringImm() | Var():
                parts = []
            case _:
                parts = [node.a, node.b]
                self._compute(lanes if isinstance(node, _FLOATING) and _is_float(node) else 0)
        for part in parts:
            self.visit(part)

    def _extern(self, call: Call) -> None:
        name, arguments = str(call.args[0].value), list(call.args[1:])
        kind, lanes = _SUFFIX.sub("", name), max(map(_lanes, (call, *arguments)))
        for argument in arguments:
            if isinstance(argument, Call) and argument.op.name == "tirx.address_of":
                element = argument.args[0]
                direction = {"load": "read", "store": "written"}.get(kind)
                if direction is not None:
                    self._access(element.buffer, element.indices, lanes, direction)
                elif element.buffer.scope() == "global":
                    raise self._unknown(f"{name}, which is given an address")
                for index in element.indices:
                    self.visit(index)
            else:
                self.visit(argument)
        if not kind.startswith(("load", "store")):
            self._compute(EXTERN_FLOPS.get(kind, 2 * lanes))

    def _compute(self, flops: int) -> None:
        if self.inside is not None:
            self.inside.flops += flops * self.turns * self.share

    def _access(self, buffer: Buffer, indices: Sequence[Expr], lanes: int, direction: str) -> None:
        if buffer.scope() != "global" or self.inside is None:
            return
        *outer, last = indices or (tirx.IntImm("int32", 0),)
        if isinstance(last, tirx.Ramp):
            last, lanes = last.base, int(last.lanes)
        elements = self.turns * lanes
        if self.turns <= FEW_TURNS and indices:
            with suppress(Unknown):
                elements = self.grid.distinct([*outer, last], self.scope.shape(buffer)) * lanes
        *outer, last = map(self.bounds, (*outer, last))
        shape = self.scope.shape(buffer) or [1]
        last = last.widened(lanes)
        if all(index == FALSE for index in outer):
            # The last index may go on through all of the buffer.
            touched = [*outer, last.within(math.prod(shape))]
        else:
            touched = [index.within(size) for index, size in zip((*outer, last), shape, strict=True)]
        counts = getattr(self.inside, direction)
        counts[buffer] = counts.get(buffer, 0) + min(math.prod(index.count for index in touched), elements)

    def _unknown(self, what: str) -> EdgeTransactError:
        return EdgeTransactError(f"cannot tell what {self.name} reads: {what}", fix="Report this as a bug.")


def _length(size: Expr) -> int:
    return int(size) if isinstance(size, tirx.IntImm) else 0


def _lanes(expr: Expr) -> int:
    return int(expr.ty.dtype.lanes) if hasattr(expr.ty, "dtype") else 1


def _is_float(expr: Expr) -> bool:
    return hasattr(expr.ty, "dtype") and str(expr.ty.dtype).startswith("float")
