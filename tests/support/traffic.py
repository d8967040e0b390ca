"""Bytes that the GPU kernels of a decoded token read and write, found by following their TIR.

Indices and conditions are computed for all threads and iterations at once, as arrays with a dimension for each loop
around them. The elements that a kernel touches are counted once, however often it does: what moves if caches hold the
rest. Integers that tensors hold are 0 where a call doesn't say them, and branches on other data are taken.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import tvm
from tvm import IRModule, relax, tirx
from tvm.ir import Call
from tvm.tirx import Buffer, Expr, Stmt, Var

from edge_transact.compiler import library
from edge_transact.compiler.launches import argument_sizes, value
from edge_transact.costs import PAGE_SIZE

ATTENTION = "vm.builtin.attention_kv_cache_attention_with_fused_qkv"
CACHE_CREATION = "vm.builtin.paged_attention_kv_cache_create"
HEADS, ROPE_MODE, APPEND, DECODE, SPLIT_ROTARY = 2, 8, 13, 17, 24
"""Positions of the creation's arguments that count heads and dims, and of its kernels (`passes.kv_cache`)."""

Argument = tuple[int, ...] | int
"""A tensor's shape, or an integer."""


@dataclass
class Traffic:
    """Masks of the elements that a kernel touches in each buffer of global memory; a parameter is its buffer."""

    read_masks: dict[Buffer, np.ndarray] = field(default_factory=dict)
    written_masks: dict[Buffer, np.ndarray] = field(default_factory=dict)

    @property
    def read(self) -> dict[Buffer, int]:
        """Bytes read from each buffer."""
        return _nbytes(self.read_masks)

    @property
    def written(self) -> dict[Buffer, int]:
        """Bytes written to each buffer."""
        return _nbytes(self.written_masks)


def _nbytes(masks: Mapping[Buffer, np.ndarray]) -> dict[Buffer, int]:
    return {
        buffer: int(mask.sum()) * buffer.dtype.bits * buffer.dtype.lanes // 8
        for buffer, mask in masks.items()
        if mask.any()
    }


def traffic(
    function: tirx.PrimFunc, arguments: Sequence[Argument], contents: Mapping[int, Sequence[int]] | None = None
) -> list[Traffic]:
    """The traffic of each kernel of a scheduled function in one call.

    Args:
        function: Scheduled.
        arguments: Of the call.
        contents: Integers that tensors hold, by the argument's position.
    """
    walk = _Walk(function, arguments, contents or {})
    walk.visit(function.body)
    return walk.kernels


class Unknown(Exception):
    """An expression depends on data."""


class _Walk:
    """Visits the statements of a function in the order in which they are executed."""

    def __init__(
        self, function: tirx.PrimFunc, arguments: Sequence[Argument], contents: Mapping[int, Sequence[int]]
    ) -> None:
        self.sizes = argument_sizes(function, arguments)
        self.contents = {function.params[i]: np.array(numbers) for i, numbers in contents.items()}
        self.kernels: list[Traffic] = []
        self.inside: Traffic | None = None
        self.depth = 0
        # Values of variables, and of local arrays of one integer.
        self.values: dict[Var | Buffer, Any] = dict(self.sizes)
        self.conditions: Any = True

    def visit(self, node: Any) -> None:
        """A statement or an expression."""
        match node:
            case tirx.SeqStmt():
                for statement in node.seq:
                    self.visit(statement)
            case tirx.Bind():
                self.visit(node.value)
                self._bind(node.var, node.value)
            case tirx.Evaluate():
                self.visit(node.value)
            case tirx.For():
                self._loop(node.loop_var, node.min, node.extent, node.thread_binding is not None, node.body)
            case tirx.AttrStmt() if node.attr_key == "thread_extent":
                self._loop(node.node.var, 0, node.value, True, node.body)
            case tirx.AttrStmt():
                self.visit(node.body)
            case tirx.IfThenElse():
                self.visit(node.condition)
                self._if(node.condition, node.then_case)
                if node.else_case is not None:
                    self._if(tirx.Not(node.condition), node.else_case)
            case tirx.SBlockRealize():
                for axis, index in zip(node.block.iter_vars, node.iter_values, strict=True):
                    self._bind(axis.var, index)
                for body in (node.block.init, node.block.body):
                    if body is not None:
                        self._if(node.predicate, body)
            case tirx.BufferStore():
                for expr in (*node.indices, node.value):
                    self.visit(expr)
                self._touch(node.buffer, node.indices, 1, "written_masks")
                if node.buffer.scope() != "global":
                    self._bind(node.buffer, node.value)
            case tirx.AllocBuffer() | tirx.DeclBuffer():
                pass
            case Stmt():
                raise NotImplementedError(type(node))
            case _:
                self._expression(node)

    def _bind(self, variable: Var | Buffer, expr: Expr) -> None:
        """Keep what a variable is now, if it is an integer that follows from the call."""
        self.values.pop(variable, None)
        if _is_integer(expr) and (isinstance(variable, Var) or math.prod(map(_length, variable.shape)) == 1):
            with suppress(Unknown):
                self.values[variable] = self.value(expr)

    def _loop(self, var: Var, first: Expr | int, extent: Expr | int, is_axis: bool, body: Stmt) -> None:
        before = dict(self.values), self.conditions, self.inside
        if is_axis and self.inside is None:
            self.inside = Traffic()
            self.kernels.append(self.inside)
        start, count = self.value(first), self.value(extent)
        turns = int(np.max(count))
        self.values[var] = start + np.arange(turns).reshape(-1, *[1] * self.depth)
        self.depth += 1
        if turns and np.min(count) == turns:
            self.visit(body)
        elif turns:
            self._if(var - first < extent, body)
        self.depth -= 1
        # Values with a dimension for this loop end with it.
        self.values, self.conditions, self.inside = before

    def _if(self, condition: Expr, body: Any) -> None:
        """Visit what is executed where a condition holds, too."""
        try:
            holds = self.value(condition)
        except Unknown:
            holds = True
        if np.any(holds):
            before = self.conditions
            if not np.all(holds):
                self.conditions = np.logical_and(before, holds)
            self.visit(body)
            self.conditions = before

    def _expression(self, node: Any) -> None:
        match node:
            case tirx.BufferLoad():
                self._touch(node.buffer, node.indices, 1, "read_masks")
                parts = list(node.indices)
            case Call() if node.op.name == "tirx.call_extern":
                name, *parts = node.args
                for argument in parts:
                    if isinstance(argument, Call) and argument.op.name == "tirx.address_of":
                        element = argument.args[0]
                        assert name.value.startswith("load") or element.buffer.scope() != "global", name.value
                        self._touch(element.buffer, element.indices, int(node.ty.dtype.lanes), "read_masks")
                parts = [p for p in parts if not (isinstance(p, Call) and p.op.name == "tirx.address_of")]
            case Call() if node.op.name == "tirx.if_then_else":
                condition, yes, no = node.args
                self.visit(condition)
                self._if(condition, yes)
                self._if(tirx.Not(condition), no)
                return
            case Call():
                parts = list(node.args)
            case tirx.Let():
                self.visit(node.value)
                self._bind(node.var, node.value)
                parts = [node.body]
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
        for part in parts:
            self.visit(part)

    def _touch(self, buffer: Buffer, indices: Sequence[Expr], lanes: int, direction: str) -> None:
        if buffer.scope() != "global" or self.inside is None:
            return
        shape = [value(size, self.sizes) for size in buffer.shape]
        flat: Any = 0
        for index, size in zip(indices, shape, strict=True):
            flat = flat * size + self.value(index)
        if lanes > 1:
            flat = flat + np.arange(lanes).reshape(-1, *[1] * self.depth)
        masks = getattr(self.inside, direction)
        mask = masks.setdefault(buffer, np.zeros(math.prod(shape), bool))
        flat, holds = np.asarray(flat), np.asarray(self.conditions)
        # Elements are touched if the conditions hold in any iteration of loops on which the index doesn't depend.
        rank = max(flat.ndim, holds.ndim)
        flat, holds = (array.reshape(*[1] * (rank - array.ndim), *array.shape) for array in (flat, holds))
        holds = holds.any(axis=tuple(axis for axis in range(rank) if flat.shape[axis] == 1), keepdims=True)
        touched = flat if holds.all() else flat[np.broadcast_to(holds, flat.shape)]
        # Threads beyond the end load under a condition that isn't around every expression.
        mask[touched[(touched >= 0) & (touched < mask.size)]] = True

    def value(self, expr: Expr | int) -> Any:
        """An integer or a truth value in all iterations.

        Raises:
            Unknown: It depends on data.
        """
        match expr:
            case int() | tirx.IntImm():
                return int(expr)
            case Var() if expr in self.values:
                return self.values[expr]
            case tirx.BufferLoad() if expr.buffer in self.values:
                return self.values[expr.buffer]
            case tirx.BufferLoad() if expr.buffer.scope() == "global" and _is_integer(expr):
                numbers = self.contents.get(expr.buffer)
                # Where a condition forbids the load, its index may be outside.
                return 0 if numbers is None else numbers[np.clip(self.value(expr.indices[0]), 0, len(numbers) - 1)]
            case tirx.Cast() if _is_integer(expr.value):
                return self.value(expr.value)
            case tirx.Not():
                return np.logical_not(self.value(expr.a))
            case tirx.Select():
                return np.where(*map(self.value, (expr.condition, expr.true_value, expr.false_value)))
            case tirx.Ramp():
                steps = np.arange(int(expr.lanes)).reshape(-1, *[1] * self.depth)
                return self.value(expr.base) + self.value(expr.stride) * steps
            case Call() if expr.op.name == "tirx.if_then_else":
                return np.where(*map(self.value, expr.args))
            case Call() if expr.op.name in _CALLS:
                return _CALLS[expr.op.name](*map(self.value, expr.args))
            case Call() if expr.op.name == "tirx.call_extern" and expr.args[0].value == "quotient":
                return self.value(expr.args[1]) // self.value(expr.args[2])
            case Call() if expr.op.name == "tirx.call_extern" and expr.args[0].value == "padded_index":
                # Its second argument is 1 / dims.
                index, padding = self.value(expr.args[1]), self.value(expr.args[3])
                return index + index // self.value(expr.args[2].b) * padding
            case _ if type(expr) in _OPERATIONS:
                return _OPERATIONS[type(expr)](self.value(expr.a), self.value(expr.b))
        raise Unknown(expr)


_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    tirx.Add: operator.add,
    tirx.Sub: operator.sub,
    tirx.Mul: operator.mul,
    tirx.FloorDiv: operator.floordiv,
    tirx.FloorMod: operator.mod,
    tirx.Div: operator.floordiv,
    tirx.Mod: operator.mod,
    tirx.Min: np.minimum,
    tirx.Max: np.maximum,
    tirx.LT: operator.lt,
    tirx.GT: operator.gt,
    tirx.LE: operator.le,
    tirx.GE: operator.ge,
    tirx.EQ: operator.eq,
    tirx.NE: operator.ne,
    tirx.And: np.logical_and,
    tirx.Or: np.logical_or,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "tirx.shift_left": np.left_shift,
    "tirx.shift_right": np.right_shift,
    "tirx.bitwise_and": np.bitwise_and,
}


def _length(size: Expr) -> int:
    return int(size) if isinstance(size, tirx.IntImm) else 0


def _is_integer(expr: Expr) -> bool:
    dtype = str(expr.ty.dtype) if hasattr(expr.ty, "dtype") else ""
    return dtype.startswith(("int", "uint", "bool")) and "x" not in dtype


@dataclass
class Kernel:
    """The launches of a kernel for one token, and the bytes that they read and write, added up."""

    launches: int = 0
    read: int = 0
    written: int = 0


class DecodedToken:
    """The kernels of one decoded token, from the embedding to the logits, by TVM's names.

    Args:
        mod: Scheduled: functions call kernels with the tensors that they write.
        context: Tokens of the sequence, with the one that is decoded.
    """

    def __init__(self, mod: IRModule, context: int) -> None:
        self.mod, self.context = mod, context
        self.kernels: dict[str, Kernel] = {}
        self._known: dict[tuple[object, ...], list[tuple[int, int]]] = {}

    @property
    def read(self) -> int:
        """Bytes that all launches read."""
        return sum(kernel.read for kernel in self.kernels.values())

    def run(self, *functions: str) -> DecodedToken:
        """Add the launches of functions of the module."""
        for name in functions:
            for block in self.mod[name].body.blocks:
                for binding in block.bindings:
                    call = binding.value
                    if not isinstance(call, relax.Call):
                        continue
                    if isinstance(call.op, tvm.ir.GlobalVar):
                        self._launch(call.op, [_argument(argument) for argument in call.args])
                    elif getattr(call.op, "global_symbol", "") == ATTENTION:
                        self._attend()
        return self

    def _launch(
        self, var: tvm.ir.GlobalVar, arguments: Sequence[Argument], contents: Mapping[int, Sequence[int]] | None = None
    ) -> None:
        key = (var.name_hint, *arguments)
        if key not in self._known:
            found = traffic(self.mod[var], arguments, contents)
            self._known[key] = [(sum(of.read.values()), sum(of.written.values())) for of in found]
        for number, (read, written) in enumerate(self._known[key]):
            kernel = self.kernels.setdefault(f"{var.name_hint}_{number}" if number else var.name_hint, Kernel())
            kernel.launches += 1
            kernel.read += read
            kernel.written += written

    def _attend(self) -> None:
        """Three launches by the KV cache: it splits and rotates, appends to its pages, and attends to them.

        Source: `AttentionWithFusedQKV` in TVM's ``src/runtime/vm/paged_kv_cache.cc``.
        """
        creation = _creation(self.mod)
        h_q, h_kv, qk, d_v = (int(number) for number in creation.args[HEADS : HEADS + 4])
        pages = math.ceil(self.context / PAGE_SIZE)
        cache = (pages, 2, h_kv, PAGE_SIZE, qk)
        q, k, v = (1, h_q, qk), (1, h_kv, qk), (1, h_kv, d_v)
        rotates = int(int(creation.args[ROPE_MODE]) == 1)
        last = [self.context - 1]
        self._launch(creation.args[SPLIT_ROTARY], [(1, h_q + 2 * h_kv, qk), (1,), q, k, v, rotates], {1: last})
        self._launch(creation.args[APPEND], [cache, k, v, (1,)], {3: last})
        in_last_page = self.context - (pages - 1) * PAGE_SIZE
        self._launch(
            creation.args[DECODE].fields[1],
            # It doesn't rotate, and the scales are numbers that don't matter here.
            [q, cache, (2,), (pages,), (1,), (1,), (1,), (1, h_q, d_v), (1, h_q), 0, 0, 0, 0],
            {2: [0, pages], 3: range(pages), 4: [in_last_page]},
        )


def _creation(mod: IRModule) -> relax.Call:
    for block in mod["create_tir_paged_kv_cache"].body.blocks:
        for binding in block.bindings:
            if getattr(getattr(binding.value, "op", None), "global_symbol", "") == CACHE_CREATION:
                return binding.value
    raise AssertionError("nothing creates the KV cache")


def _argument(argument: relax.Expr) -> Argument:
    """Of a call for one token: the symbolic sizes of shapes are those of batches and sequences."""
    if isinstance(argument, (relax.Var, relax.Constant)):
        return tuple(int(size) if isinstance(size, tirx.IntImm) else 1 for size in argument.ty.shape.values)
    return int(argument) if isinstance(argument, tirx.IntImm) else 0


@contextmanager
def planned() -> Iterator[list[IRModule]]:
    """The modules of libraries that are built inside this context, as `DecodedToken` takes them."""
    modules: list[IRModule] = []
    compiled = library._compile

    def noted(*arguments: Any) -> tuple[Any, IRModule, Any]:
        made = compiled(*arguments)
        modules.append(made[1])
        return made

    with mock.patch.object(library, "_compile", noted):
        yield modules
