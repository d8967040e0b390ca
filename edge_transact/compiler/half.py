"""fp16 on x86 CPUs without F16C: conversions by ``half.ll``, and arithmetic in fp32."""

from __future__ import annotations

import re
from pathlib import Path

import tvm
from tvm import IRModule, tirx
from tvm.script import tirx as T
from tvm.target import codegen
from tvm.tirx import Expr
from tvm.tirx.stmt_functor import ir_transform

from edge_transact.compiler.vector import cast, lanes_of, scalar_dtype

_BINARY = [f"tirx.{name}" for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "LT", "LE", "GT", "GE", "EQ", "NE")]

_CALLS = {"tirx.if_then_else", "tirx.call_extern", "tirx.reinterpret"}
"""Calls that hand values on."""

_CONVERSIONS = (Path(__file__).parent / "half.ll").read_text()
"""LLVM's code for vectors of $N lanes, which it inlines."""


def replace_fp16(function: tirx.PrimFunc, _mod: IRModule, _context: tvm.transform.PassContext) -> tirx.PrimFunc:
    """Replace what a function for an x86 CPU without F16C computes with fp16."""
    target = function.attrs.get("target")
    if target is None or not str(target.attrs.get("mtriple", "")).startswith("x86_64"):
        return function
    if codegen.llvm_cpu_has_features(["f16c"], target):
        return function
    used: set[int] = set()

    def call(name: str, dtype: str, value: Expr) -> Expr:
        used.add(lanes := lanes_of(value))
        return T.call_extern(dtype if lanes == 1 else f"{dtype}x{lanes}", f"edge_{name}_{lanes}", value)

    def single(half: Expr) -> Expr:
        """fp16 as fp32; what was rounded just before, as it was."""
        is_call = isinstance(half, tvm.ir.Call) and half.op.name == "tirx.call_extern"
        is_rounded = is_call and half.args[0].value.startswith("edge_narrow_")
        return half.args[1] if is_rounded else call("widen", "float32", half)

    def replaced(node: Expr) -> Expr:
        if isinstance(node, tirx.Cast):
            value = single(node.value) if _is_half(node.value) else node.value
            if _is_half(node):
                return call("narrow", "float16", cast("float32", value))
            return cast(scalar_dtype(node), value) if _is_half(node.value) else node
        if isinstance(node, tvm.ir.Call):
            if not _is_half(node) or node.op.name in _CALLS:
                return node
            operands = [single(argument) if _is_half(argument) else argument for argument in node.args]
            dtype = str(node.ty.dtype).replace("float16", "float32")
            return call("narrow", "float16", tvm.ir.Call(node.op, operands, ret_ty=tvm.ir.PrimType(dtype)))
        if not _is_half(node.a):
            return node
        value = type(node)(single(node.a), single(node.b))
        return call("narrow", "float16", value) if _is_half(node) else value

    body = ir_transform(function.body, None, replaced, ["tirx.Cast", "ir.Call", *_BINARY])
    for lanes in sorted(used):
        code = _CONVERSIONS if lanes > 1 else re.sub(r"<\$N x (\w+)>|splat \(\w+ (\w+)\)", r"\1\2", _CONVERSIONS)
        code = tirx.StringImm(code.replace("$N", str(lanes)))
        body = tirx.AttrStmt(T.int32(0), "pragma_import_llvm", code, body)
    return function.with_body(body)


def _is_half(value: object) -> bool:
    return isinstance(value, Expr) and isinstance(value.ty, tvm.ir.PrimType) and scalar_dtype(value) == "float16"
