"""From TIR to what LLVM takes: TVM's own passes, and fewer of them for kernels that are loops already.

TVM's passes are made for schedules: they look for blocks, thread bindings and software pipelines, shrink buffers and
hoist conditions. The CPU kernels have none of that but a block around all; they are long, and spend more time in those
passes than in LLVM.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import IRModule, s_tir, tirx

_SHORT_WAY = "edge_transact.plain_loops"

PLAIN_LOOPS = {"tirx.noalias": True, "tirx.is_scheduled": True, _SHORT_WAY: True}
"""The attributes of a kernel for a CPU that is lowered the short way: no blocks, buffers as small as they can be."""

PIPELINE = "edge_transact"
"""What `tvm.compile` and `relax.build` are given as ``tir_pipeline``."""


def _pipeline() -> tuple[tvm.transform.Pass, Any, Any]:
    usual, of_host, of_device = tirx.get_tir_pipeline("default")
    short = tvm.transform.Sequential(
        [
            s_tir.transform.ConvertBlocksToOpaque(),
            s_tir.transform.LowerOpaqueBlock(),
            tirx.transform.FlattenBuffer(),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(),
            tirx.transform.StorageRewrite(),
            tirx.transform.UnrollLoop(),
            tirx.transform.StmtSimplify(),
            tirx.transform.CommonSubexprElim(),
            tirx.transform.AnnotateEntryFunc(),
            tirx.transform.SplitHostDevice(),
            tirx.transform.MakePackedAPI(),
        ]
    )

    @tvm.transform.module_pass(opt_level=0, name="EdgeTransactLowering")
    def run(mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        plain = {var: function for var, function in mod.functions_items() if _SHORT_WAY in function.attrs}
        others = {var: function for var, function in mod.functions_items() if var not in plain}
        lowered = usual(IRModule(others, attrs=mod.attrs))
        lowered.update(short(IRModule(plain, attrs=mod.attrs)))
        return lowered

    return run, of_host, of_device


tirx.register_tir_pipeline(PIPELINE, _pipeline)
