"""Kernels for phones' GPUs, compiled alone for this computer's OpenCL device."""

from __future__ import annotations

import tvm
from tvm import tirx

from benchmarks.opencl import HERE
from edge_transact.compiler.lowering import PIPELINE, UNCHECKED


def compiled(function: tirx.PrimFunc):
    """The kernel as a function of tensors; to be called inside `benchmarks.opencl.executed_here`."""
    function = function.with_attrs({"global_symbol": "kernel", UNCHECKED: True})
    mod = tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule({"kernel": function}))
    return tvm.compile(mod, target=HERE, tir_pipeline=PIPELINE)["kernel"]
