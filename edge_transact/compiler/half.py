"""fp16 on x86 CPUs without F16C: conversions by integers, and arithmetic in fp32.

LLVM would call a function for each element.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import IRModule, tirx
from tvm.script import tirx as T
from tvm.target import codegen
from tvm.tirx import Expr
from tvm.tirx.stmt_functor import ir_transform

from edge_transact.compiler.vector import cast, lanes_of, scalar_dtype, splat

_ARITHMETIC = [f"tirx.{name}" for name in ("Add", "Sub", "Mul", "Div", "Max", "Min")]

_CALLS = {"tirx.if_then_else", "tirx.call_extern"}
"""Calls that hand values on."""


def replace_fp16(function: tirx.PrimFunc, _mod: IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    """Replace what a function for an x86 CPU without F16C computes with fp16."""
    target = function.attrs.get("target")
    if target is None or not str(target.attrs.get("mtriple", "")).startswith("x86_64"):
        return function
    if codegen.llvm_cpu_has_features(["f16c"], target):
        return function
    body = ir_transform(function.body, None, _promoted, ["tirx.Cast", "ir.Call", *_ARITHMETIC])
    return function.with_body(ir_transform(body, None, _converted, ["tirx.Cast"]))


def _promoted(node: Expr) -> Expr:
    """fp16 arithmetic in fp32, which isn't rounded in between."""
    if isinstance(node, tirx.Cast):
        return _single(node.value) if _is_half(node.value) and scalar_dtype(node) == "float32" else node
    if not _is_half(node) or (isinstance(node, tvm.ir.Call) and node.op.name in _CALLS):
        return node
    if isinstance(node, tvm.ir.Call):
        operands = [_single(argument) if _is_half(argument) else argument for argument in node.args]
        return cast("float16", tvm.ir.Call(node.op, operands, ret_ty=tvm.ir.PrimType(_lanes("float32", node))))
    return cast("float16", type(node)(_single(node.a), _single(node.b)))


def _single(half: Expr) -> Expr:
    is_rounded = isinstance(half, tirx.Cast) and scalar_dtype(half.value) == "float32"
    return half.value if is_rounded else cast("float32", half)


def _converted(node: tirx.Cast) -> Expr:
    if _is_half(node.value):
        return cast(scalar_dtype(node), widen(node.value))
    return narrow(cast("float32", node.value)) if _is_half(node) else node


def widen(half: Expr) -> Expr:
    """fp16 lanes as fp32."""
    integers, floats = _constants(half)

    def wide(bits: Expr) -> Expr:
        magnitude = T.bitwise_and(bits, integers(0x7FFF))
        # A subnormal number is converted as an integer: as a subnormal fp32, it would take a CPU a hundred cycles.
        subnormal = cast("float32", cast("int32", magnitude)) * floats(2.0**-24)
        # Infinity has the largest exponent before and after.
        moved = T.shift_left(magnitude, integers(13)) + integers(224 << 23)
        normal = T.reinterpret(_lanes("float32", half), moved) * floats(2.0**-112)
        value = T.reinterpret(_lanes("uint32", half), T.Select(magnitude < integers(1 << 10), subnormal, normal))
        sign = T.shift_left(T.bitwise_and(bits, integers(0x8000)), integers(16))
        return T.reinterpret(_lanes("float32", half), T.bitwise_or(value, sign))

    return _let(cast("uint32", T.reinterpret(_lanes("uint16", half), half)), wide)


def narrow(single: Expr) -> Expr:
    """fp32 lanes as fp16, rounded to the nearest, ties to even."""
    integers, floats = _constants(single)

    def half(bits: Expr) -> Expr:
        magnitude = T.bitwise_and(bits, integers(0x7FFFFFFF))
        # What is too large becomes infinite, and the rest 4 times as large.
        scaled = T.reinterpret(_lanes("float32", single), magnitude) * floats(2.0**112) * floats(2.0**-110)
        # Added to a number with an exponent larger by 15, it is rounded to fp16's fraction, below its exponent less 1.
        exponent = T.max(T.bitwise_and(magnitude, integers(0x7F800000)), integers(113 << 23)) + integers(15 << 23)
        rounded = T.reinterpret(_lanes("uint32", single), scaled + T.reinterpret(_lanes("float32", single), exponent))
        return _let(rounded, lambda sum_: joined(magnitude, sum_, T.bitwise_xor(bits, magnitude)))

    def joined(magnitude: Expr, rounded: Expr, sign: Expr) -> Expr:
        exponent = T.bitwise_and(T.shift_right(rounded, integers(13)), integers(0x7C00))
        value = exponent + T.bitwise_and(rounded, integers(0xFFF))
        number = T.Select(magnitude > integers(0x7F800000), integers(0x7E00), value)
        joined_ = T.bitwise_or(number, T.shift_right(sign, integers(16)))
        return T.reinterpret(_lanes("float16", single), cast("uint16", joined_))

    return _let(T.reinterpret(_lanes("uint32", single), single), half)


def _is_half(value: object) -> bool:
    return isinstance(value, Expr) and isinstance(value.ty, tvm.ir.PrimType) and scalar_dtype(value) == "float16"


def _lanes(dtype: str, like: Expr) -> str:
    return dtype if lanes_of(like) == 1 else f"{dtype}x{lanes_of(like)}"


def _constants(like: Expr) -> tuple[Callable[[int], Expr], Callable[[float], Expr]]:
    lanes = lanes_of(like)
    return lambda value: splat(T.uint32(value), lanes), lambda value: splat(T.float32(value), lanes)


def _let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """An expression that uses a value, uint32 lanes, more than once.

    TVM's analyzer would put the value itself back into the body, but for a call that may have effects: LLVM removes
    this one, a shift by 0 bits.
    """
    none = splat(T.uint32(0), lanes_of(value))
    name = tirx.Var("bits", value.ty)
    return tirx.Let(name, T.call_llvm_intrin(value.ty.dtype, "llvm.fshl", value, none, none), body(name))
