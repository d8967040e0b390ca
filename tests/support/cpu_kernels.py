"""Shared by the tests of the CPU kernels: the instruction sets that this machine can run, and running a kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm.target import codegen

from edge_transact.compiler.cpu.isa import Avx512, Avx512Vnni, Fp32, NeonDot
from edge_transact.compiler.lowering import PIPELINE
from edge_transact.compiler.targets import get_target

HOST = get_target("host").tvm_target()

INSTRUCTION_SETS = [
    isa
    for isa in (Fp32(4), Fp32(8), Avx512(), Avx512Vnni(2), Avx512Vnni(3), NeonDot(2), NeonDot(3))
    if codegen.llvm_cpu_has_features(list(isa.features), HOST)
]
"""Those that this machine can run."""


def describe(isa: Fp32) -> str:
    return f"{isa.name}x{isa.lanes}-{isa.terms}"


def compiled(function: tvm.tirx.PrimFunc) -> Callable:
    """The function on this machine, called with numpy arrays, which are changed in place, and numbers."""
    kernel = tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")})
    module = tvm.compile(kernel, target=HOST, tir_pipeline=PIPELINE)

    def call(*arguments):
        tensors = [tvm.runtime.tensor(a) if isinstance(a, np.ndarray) else a for a in arguments]
        module["kernel"](*tensors)
        for argument, tensor in zip(arguments, tensors, strict=True):
            if isinstance(argument, np.ndarray):
                argument[...] = tensor.numpy()

    return call
