"""Kernels for phones' GPUs, compiled alone for this computer's OpenCL device."""

import numpy as np
import tvm
from tvm import tirx

from edge_transact.compiler.gpu.kernels import OpenCLKernels
from edge_transact.compiler.lowering import PIPELINE, UNCHECKED, Lowered
from edge_transact.compiler.matmul import Matmul
from edge_transact.compiler.targets import get_target
from tests.support.opencl import HERE


def selected(matmul: Matmul, rows: int, features: int, width: int, *head_dims: int):
    """`OpenCLKernels.select` for rows of a single sequence."""
    return OpenCLKernels().select(matmul, [tirx.const(n, "int64") for n in (1, rows, features)], width, head_dims)


def lowered(function: tirx.PrimFunc, name: str) -> tvm.IRModule:
    """A kernel as it is generated for a phone."""
    result, function = Lowered(), function.with_attr("global_symbol", name)
    with tvm.transform.PassContext(opt_level=3, instruments=[result], config={"tirx.disable_cse_tir": True}):
        mod = tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule({name: function}))
        tvm.compile(mod, target=get_target("android").tvm_target(), tir_pipeline=PIPELINE)
    return result.mod


def compiled(function: tirx.PrimFunc):
    """The kernel as a function of tensors; to be called inside `opencl.executed_here`."""
    function = function.with_attrs({"global_symbol": "kernel", UNCHECKED: True})
    mod = tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule({"kernel": function}))
    return tvm.compile(mod, target=HERE, tir_pipeline=PIPELINE)["kernel"]


def weights(rng, layout: str, features: int, outputs: int, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Packed words and scales with all codes and both signs, and the matrix ``[features, outputs]``."""
    groups = -(-features // 32)
    codes = rng.integers(0, 16, (32 * groups, outputs), dtype="uint32")
    scale = (rng.uniform(0.01, 0.1, (groups, outputs)) * rng.choice([-1, 1], (groups, outputs))).astype(dtype)
    words = (codes.reshape(-1, 8, outputs) << (np.arange(8, dtype="uint32")[None, :, None] * 4)).sum(1, dtype="uint32")
    matrix = ((codes - 7.0) * np.repeat(scale.astype("float64"), 32, 0))[:features]
    return (*((words, scale) if layout == "KN" else (words.T.copy(), scale.T.copy())), matrix)
