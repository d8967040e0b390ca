"""Adapters that let MLC-LLM 79d603f0's Python run on apache-tvm 0.26.0.

MLC pins its own TVM (mlc-ai/relax 837cb9de), which isn't on PyPI; 0.26.0 is the closest release. Nothing of MLC changes
on disk. A newer MLC needs new adapters here and a new pair in `checkout`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tvm import relax, tirx
    from tvm.target import Target


def before_import() -> None:
    """Lets ``import mlc_llm`` succeed without its C++ library, in an environment with ``SKIP_LOADING_MLCLLM_SO=1``."""
    import tvm_ffi.registry

    tvm_ffi.registry._SKIP_UNKNOWN_OBJECTS = True


def after_import() -> None:
    """Adds what MLC's Python expects of TVM and of its own C++ library."""
    from mlc_llm.compiler_pass import attach_sampler, lift_global_buffer_alloc
    from mlc_llm.support import auto_device
    from mlc_llm.tokenizers import _ffi_api
    from tvm import ir, tirx
    from tvm.s_tir import dlight

    from edge_transact.mlc.chat_config import tokenizer_info

    # Building needs only this function of the C++ library.
    _ffi_api.DetectTokenizerInfo = lambda directory: json.dumps(tokenizer_info(Path(directory)))
    # MLC looks for devices in a new interpreter, which has no adapters. The CPU always exists.
    auto_device._RESULT_CACHE["cpu:0"] = True
    # In 0.26 a variable has a `name`, and parameters are buffers, where MLC's TVM maps handles to buffers.
    ir.Var.name_hint = property(lambda self: self.name)
    tirx.PrimFunc.buffer_map = property(lambda self: {param: param for param in self.params if _is_buffer(param)})
    lift_global_buffer_alloc.remove_global_buf_alloc = _lift_global_buffers
    attach_sampler.full = _scalar_first(attach_sampler.full)
    # On a CPU it compiles for minutes per matrix, and the kernels are no faster than without a schedule.
    dlight.cpu.GEMV.apply = lambda self, func, target, tunable: None
    _keep_to_vectors(dlight.gpu.Matmul)
    dlight.gpu.matmul.MetalMatmul.apply = _no_simdgroups


def _is_buffer(param: tirx.Var) -> bool:
    from tvm import tirx

    return isinstance(param.ty, tirx.BufferType)


def _keep_to_vectors(matmul: Any) -> None:
    """Limits dlight's matmul schedule for Adreno to widths that give each thread a vector.

    It fails on odd widths per thread, because it vectorizes a loop of length 1. They get dlight's general schedule.
    """
    from tvm import tirx

    schedule_vectors = matmul.sch_outer_reduction

    def schedule(self: Any, sch: Any, config: Any, block: Any, blocks: Any) -> Any:
        loops = sch.get_loops(block)
        width = sch.get(loops[2]).extent if len(loops) == 4 else None
        if isinstance(width, tirx.IntImm) and width.value // config.block_size_x % 2:
            return None
        return schedule_vectors(self, sch, config, block, blocks)

    matmul.sch_outer_reduction = schedule


def _no_simdgroups(self: object, func: tirx.PrimFunc, target: Target, tunable: bool) -> NoReturn:
    raise NotImplementedError("TVM 0.26 crashes tensorizing for Metal; dlight falls back to its schedule for any GPU")


def _scalar_first(full: tirx.PrimFunc) -> tirx.PrimFunc:
    """MLC's kernel that fills a buffer with an int32, with the arguments of 0.26's call: an int64, then the buffer."""
    from tvm import tirx

    buffer, value = full.params
    number = tirx.Var(value.name, "int64")
    body = tirx.stmt_functor.substitute(full.body, {value: number.astype("int32")})
    return tirx.PrimFunc([number, buffer], body, ret_type=full.ret_type, attrs=full.attrs)


def _lift_global_buffers(func: tirx.PrimFunc) -> tuple[tirx.PrimFunc, list[relax.TensorType]]:
    """Turns a kernel's global temporaries into parameters after its other buffers, and returns their types."""
    from tvm import relax, tirx

    root = func.body.block
    lifted = [buffer for buffer in root.alloc_buffers if buffer.scope() == "global"]
    if not lifted:
        return func, []
    buffers = [param for param in func.params if _is_buffer(param)]
    scalars = [param for param in func.params if not _is_buffer(param)]
    block = tirx.SBlock(
        iter_vars=[],
        reads=[],
        writes=[],
        name_hint=root.name_hint,
        body=root.body,
        alloc_buffers=[buffer for buffer in root.alloc_buffers if buffer.scope() != "global"],
        annotations=root.annotations,
    )
    body = tirx.SBlockRealize(iter_values=[], predicate=True, block=block)
    kernel = tirx.PrimFunc([*buffers, *lifted, *scalars], body, ret_type=func.ret_type, attrs=func.attrs)
    return kernel, [relax.TensorType(buffer.shape, buffer.dtype) for buffer in lifted]
