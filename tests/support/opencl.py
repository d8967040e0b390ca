"""An OpenCL device on this computer's CPU, which runs the kernels that are generated for phones.

It is Intel's (PyPI ``intel-opencl-rt``), which computes fp16 on any x86-64 CPU. The host code of a library looks a
kernel up in the global registry, where a function stands that launches it here. Tensors stay where they are: the device
reads the host's memory.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tvm
from tvm import IRModule, tirx

from edge_transact.compiler import library, pipeline
from edge_transact.compiler.lowering import UNCHECKED
from edge_transact.compiler.targets import get_target
from edge_transact.definition import Definition
from edge_transact.quantization import Quantization

HERE = tvm.target.Target({"kind": "opencl", "host": {"kind": "llvm"}})
"""A phone's target, its host code for this computer."""

LAUNCH_SIZES = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z")


@functools.cache
def _device():
    """The CPU's context and queue, whatever other devices there are."""
    os.environ["OCL_ICD_VENDORS"] = str(Path(sys.prefix) / "lib" / "libintelocl.so")
    import pyopencl

    (device,) = pyopencl.get_platforms()[0].get_devices()
    assert "cl_khr_fp16" in device.extensions.split()
    context = pyopencl.Context([device])
    return context, pyopencl.CommandQueue(context)


@contextmanager
def executed_here() -> Iterator[list[str]]:
    """Modules that are compiled for OpenCL inside this context run on this computer; gives their sources.

    Kernels are found by their names, so of two modules, the one that was compiled last has them.
    """
    sources: list[str] = []
    build, set_device = tvm.get_global_func("target.build.opencl"), tvm.get_global_func("__tvm_set_device")

    def build_here(mod: tvm.IRModule, target: tvm.target.Target) -> None:
        source = build(mod, target).inspect_source()
        sources.append(source)
        for var, function in mod.functions_items():
            # As TVM's runtime on a phone, which compiles each kernel when it is first called.
            (kernel,) = (part for part in source.split("// Function: ") if part.startswith(f"{var.name_hint}\n"))
            launch = functools.partial(_launch, "//" + kernel, var.name_hint, function)
            tvm.register_global_func(var.name_hint, launch, override=True)

    tvm.register_global_func("target.build.opencl", build_here, override=True)
    tvm.register_global_func("__tvm_set_device", lambda kind, index: None, override=True)
    try:
        yield sources
    finally:
        tvm.register_global_func("target.build.opencl", build, override=True)
        tvm.register_global_func("__tvm_set_device", set_device, override=True)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often each kernel is launched inside this context."""
    launches: Counter[str] = Counter()
    _counters.append(launches)
    try:
        yield launches
    finally:
        _counters.pop()


_counters: list[Counter[str]] = []


def omit_all_checks(mod: IRModule) -> IRModule:
    """Let no kernel check that tensors are in a GPU's memory."""
    for var, function in mod.functions_items():
        if isinstance(function, tirx.PrimFunc):
            mod[var] = function.with_attr(UNCHECKED, True)
    return mod


def build_for_here(definition: Definition, quantization: Quantization, path: Path) -> None:
    """Build a phone's library, its host code for this computer. It runs inside `executed_here` alone.

    Args:
        definition: The model.
        quantization: How its weights are stored.
        path: The ``.so`` to write.
    """
    target = replace(get_target("android"), name="here", suffix=".so", spec={"kind": "opencl", "host": HERE.host})
    with mock.patch.object(pipeline, "omit_checks", omit_all_checks):
        library.build_library(definition, quantization, target, "edge_llama_here", path)


@functools.cache
def _program(source: str):
    import pyopencl

    # The compiler always has something to say, if only that it compiled.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pyopencl.CompilerWarning)
        return pyopencl.Program(_device()[0], source).build()


@functools.cache
def _set_pointer() -> Callable[[int, int, int], int]:
    """``clSetKernelArgMemPointerINTEL``, which pyopencl lacks."""
    import pyopencl

    find = ctypes.CDLL(os.environ["OCL_ICD_VENDORS"]).clGetExtensionFunctionAddressForPlatform
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
    address = find(pyopencl.get_platforms()[0].int_ptr, b"clSetKernelArgMemPointerINTEL")
    return ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p)(address)


def _launch(source: str, name: str, function: tirx.PrimFunc, *values) -> None:
    # What `values` ends with are the sizes of the launch.
    sizes = [str(size) for size in function.attrs["tirx.kernel_launch_params"]]
    arguments = [getattr(value, "value", value) for value in values[: len(values) - len(sizes)]]
    size = dict.fromkeys(LAUNCH_SIZES, 1) | dict(zip(sizes, map(int, values[len(arguments) :]), strict=True))
    groups, threads = (tuple(size[name] for name in names) for names in (LAUNCH_SIZES[:3], LAUNCH_SIZES[3:]))
    for launches in _counters:
        launches[name] += 1
    if all(groups):
        _execute(source, name, function, arguments, groups, threads)


def _execute(
    source: str,
    name: str,
    function: tirx.PrimFunc,
    arguments: Sequence[Any],
    groups: tuple[int, ...],
    threads: tuple[int, ...],
) -> None:
    import pyopencl

    kernel = pyopencl.Kernel(_program(source), name)
    for i, (parameter, value) in enumerate(zip(function.params, arguments, strict=True)):
        if "Pointer" in type(parameter.ty).__name__:
            # An address of this process, as devices that share its memory take it.
            assert _set_pointer()(kernel.int_ptr, i, value) == 0
        else:
            kernel.set_arg(i, np.dtype(str(parameter.ty.dtype)).type(value))
    everything = [count * size for count, size in zip(groups, threads, strict=True)]
    _, queue = _device()
    pyopencl.enqueue_nd_range_kernel(queue, kernel, everything, threads)
    queue.finish()
