"""The GPU launches of a TIR function: work groups, their threads, and the memory that is allocated for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tvm import arith, tirx
from tvm.tirx import Buffer, Expr, Stmt, Var
from tvm.tirx.stmt_functor import StmtVisitor

THREAD_AXES = ("threadIdx.x", "threadIdx.y", "threadIdx.z")


@dataclass(frozen=True)
class Launch:
    """One kernel: its outermost loop over groups or threads, their number by axis, and a group's local memory."""

    body: Stmt
    extents: dict[str, Expr] = field(default_factory=dict)
    local: list[Buffer] = field(default_factory=list)

    def threads(self, sizes: Mapping[Var, int]) -> int:
        """Threads of a work group, with these sizes for symbols."""
        return math.prod(value(self.extents.get(axis, 1), sizes) for axis in THREAD_AXES)

    @property
    def local_bytes(self) -> int:
        """Bytes of a work group's local memory; final in kernels of `lowering.Lowered` only."""
        return sum(buffer_bytes(buffer, {}) for buffer in self.local)


@dataclass(frozen=True)
class Launches:
    """A function's kernels in order, and its temporaries in global memory."""

    kernels: list[Launch]
    temporaries: list[Buffer]


def launches(function: tirx.PrimFunc) -> Launches:
    """The kernels and temporaries of a scheduled function; none if it runs on a CPU."""
    found = _Finder()
    found.visit_stmt(function.body)
    return Launches(found.kernels, found.temporaries)


def argument_sizes(function: tirx.PrimFunc, arguments: Sequence[Sequence[int] | int]) -> dict[Var, int]:
    """A call's values of symbolic sizes and integer parameters, given each tensor's shape and each number's value."""
    sizes: dict[Var, int] = {}
    for parameter, argument in zip(function.params, arguments, strict=True):
        if not isinstance(argument, int):
            pairs = zip(parameter.ty.shape, argument, strict=True)
            sizes |= {size: actual for size, actual in pairs if isinstance(size, Var)}
        elif str(parameter.ty.dtype).startswith("int"):
            sizes[parameter] = argument
    return sizes


def value(expr: Expr | int, sizes: Mapping[Var, int]) -> int:
    """An expression with these sizes for symbols; a `ValueError` if it has other symbols."""
    if isinstance(expr, int):
        return expr
    symbols = {var: tirx.IntImm(var.ty.dtype, size) for var, size in sizes.items()}
    result = arith.Analyzer().simplify(tirx.stmt_functor.substitute(expr, symbols))
    if not isinstance(result, tirx.IntImm):
        raise ValueError(f"{expr} is {result}, which is not a number")
    return int(result)


def buffer_bytes(buffer: Buffer, sizes: Mapping[Var, int]) -> int:
    """Bytes of a buffer, with these sizes for symbols."""
    dtype = buffer.dtype
    return math.prod(value(size, sizes) for size in buffer.shape) * ((dtype.bits * dtype.lanes + 7) // 8)


class _Finder(StmtVisitor):
    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Launch] = []
        self.temporaries: list[Buffer] = []
        self.inside: Launch | None = None
        self.bound: dict[Var, Expr] = {}

    def visit_bind_(self, op: tirx.Bind) -> None:
        self.bound[op.var] = tirx.stmt_functor.substitute(op.value, self.bound)

    def visit_for_(self, op: tirx.For) -> None:
        axis = op.thread_binding.thread_tag if op.thread_binding is not None else ""
        self._visit(op, axis, op.extent)

    def visit_attr_(self, op: tirx.AttrStmt) -> None:
        axis = op.node.thread_tag if op.attr_key == "thread_extent" else ""
        self._visit(op, axis, op.value)

    def _visit(self, op: tirx.For | tirx.AttrStmt, axis: str, extent: Expr) -> None:
        outermost = bool(axis) and self.inside is None
        if outermost:
            self.inside = Launch(op)
            self.kernels.append(self.inside)
        if axis and self.inside is not None:
            # An axis may be bound again: its loops have the same extent then.
            self.inside.extents.setdefault(axis, tirx.stmt_functor.substitute(extent, self.bound))
        self.visit_stmt(op.body)
        if outermost:
            self.inside = None

    def visit_alloc_buffer_(self, op: tirx.AllocBuffer) -> None:
        self._allocated(op.buffer)

    def visit_block_(self, op: tirx.SBlock) -> None:
        for buffer in op.alloc_buffers:
            self._allocated(buffer)
        if op.init is not None:
            self.visit_stmt(op.init)
        self.visit_stmt(op.body)

    def _allocated(self, buffer: Buffer) -> None:
        if buffer.scope() == "global":
            self.temporaries.append(buffer)
        elif buffer.scope().startswith("shared") and self.inside is not None:
            self.inside.local.append(buffer)
