"""Lowering of TIR to LLVM: TVM's own passes, and fewer of them for kernels that are plain loops already.

TVM's passes are made for schedules: they handle blocks, thread bindings and software pipelines, shrink buffers and
hoist conditions. The CPU kernels have a single block around everything and need none of this, and because they are
long, they spend more time in those passes than in LLVM.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import IRModule, s_tir, tirx

_IS_PLAIN = "edge_transact.plain_loops"

PLAIN_LOOPS = {"tirx.noalias": True, "tirx.is_scheduled": True, _IS_PLAIN: True}
"""The attributes of a CPU kernel of plain loops, whose buffers are already as small as possible."""

MakePass = Callable[[], tvm.transform.Pass]

UNCHECKED = "edge_transact.unchecked"
"""The attribute of a kernel that doesn't check its arguments."""

PIPELINE = "edge_transact"
"""The ``tir_pipeline`` for `tvm.compile` and `relax.build`."""


def _pipeline() -> tuple[tvm.transform.Pass, MakePass, MakePass]:
    default, finalize_host, finalize_device = tirx.get_tir_pipeline("default")
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
        plain = {var: function for var, function in mod.functions_items() if _IS_PLAIN in function.attrs}
        others = {var: function for var, function in mod.functions_items() if var not in plain}
        lowered = default(IRModule(others, attrs=mod.attrs))
        lowered.update(short(IRModule(plain, attrs=mod.attrs)))
        unchecked = {var: function for var, function in lowered.functions_items() if UNCHECKED in function.attrs}
        lowered.update(tirx.transform.SkipAssert()(IRModule(unchecked, attrs=mod.attrs)))
        return lowered

    return run, finalize_host, finalize_device


tirx.register_tir_pipeline(PIPELINE, _pipeline)


@tvm.instrument.pass_instrument
class Lowered:
    """Keeps what `PIPELINE` made, for the pass context of a build.

    Attributes:
        mod: Host functions, and each GPU kernel as a function of its own, with its memory as it is allocated.
    """

    mod: IRModule

    def run_after_pass(self, mod: IRModule, info: tvm.transform.PassInfo) -> None:
        """Called by TVM after each pass."""
        if info.name == "EdgeTransactLowering":
            self.mod = mod
