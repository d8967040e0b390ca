"""Calls of the functions in ``w4.cl``, whose source is put before the kernels that use them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypeVar

import tvm
from tvm.ir import Call, PrimType
from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.vector import Index

Size = TypeVar("Size", int, Expr)

LANES = 8
"""Activations of a vector. The functions of ``w4.cl`` multiply them by the weights of a word."""

C_NAMES = {"float16": "half", "float32": "float", "uint32": "uint"}
"""OpenCL's names of dtypes."""

_PARAGRAPHS = (Path(__file__).parent / "w4.cl").read_text().split("\n\n")[1:]
_FUNCTIONS = {re.findall(r"(\w+)\(", text[text.index("static inline") :])[0]: text for text in _PARAGRAPHS}


def call(dtype: str, name: str, *arguments: Expr) -> Expr:
    """Call a function of ``w4.cl`` and bind its result. TVM treats the call as opaque: it doesn't repeat or move it."""
    return T.bind(T.call_extern(dtype, name, *arguments))


def address(buffer: Buffer, indices: list[Index]) -> Expr:
    return Call("tirx.address_of", [buffer[tuple(indices)]], ret_ty=PrimType("uint64"))


def load_vector(buffer: Buffer, indices: list[Index], lanes: int) -> Expr:
    """Load `lanes` elements from `indices` on, a multiple of `lanes`."""
    dtype = str(buffer.dtype)
    if lanes == 1:
        return T.bind(buffer[tuple(indices)])
    space = "local_" if buffer.scope() == "shared" else ""
    return call(f"{dtype}x{lanes}", f"load_{space}{C_NAMES[dtype]}{lanes}", address(buffer, indices))


def store_vector(buffer: Buffer, value: Expr, indices: list[Index]) -> None:
    """Store a vector in local memory, at a multiple of its lanes."""
    assert buffer.scope() == "shared"
    name = f"store_local_{C_NAMES[str(buffer.dtype)]}{value.ty.dtype.lanes}"
    T.evaluate(T.call_extern("void", name, address(buffer, indices), value))


def blocks(size: Size, block: int) -> Size:
    return (size + (block - 1)) // block


def wait() -> None:
    """A barrier of the work group's threads that makes their stores in local memory visible."""
    T.evaluate(T.tvm_storage_sync("shared"))


def _with_functions(kernel: str, _target: tvm.target.Target) -> str:
    """Put the functions of ``w4.cl`` that a kernel calls before it; phones compile each kernel alone."""
    functions: dict[str, str] = {}
    _collect(kernel, functions)
    if not functions:
        return kernel
    head, kernel = kernel.split("__kernel", 1)
    # OpenCL aligns a local array to its elements only; vector loads need more.
    kernel = re.sub(r"__local (half|float) (\w+)\[", r"__local __attribute__((aligned(64))) \1 \2[", kernel)
    return head + "\n".join(functions.values()) + "\n\n__kernel" + kernel


def _collect(text: str, functions: dict[str, str]) -> None:
    """Add the functions of ``w4.cl`` that a text calls to `functions`, each after those that it calls itself."""
    for name in dict.fromkeys(re.findall(r"\b\w+(?=\()", text)):
        dtype = "half" if "half" in name else "float"
        generic = _FUNCTIONS.get(name) or _FUNCTIONS.get(name.replace(dtype, "REAL"))
        if generic is not None and name not in functions:
            code = generic[generic.index("static inline") :].replace("REAL", dtype)
            _collect(code.split("{", 1)[1], functions)
            functions[name] = code


tvm.register_global_func("tvm_callback_opencl_postproc", _with_functions, override=True)
