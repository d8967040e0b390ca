"""Schedules of the CPU's kernels: matrix products over blocks of output features, in parallel."""

from __future__ import annotations

import tvm
from tvm import IRModule, s_tir, tirx

from edge_transact.compiler.matmul import MATMUL, Layout, weight_block

LANES = 16
"""Output features that are computed side by side in a vector register (or two, or four)."""


@tvm.transform.module_pass(opt_level=0, name="ScheduleForCPU")
class ScheduleForCPU:
    """Schedules the matrix products; TVM's lowering takes the other kernels as they are, one thread each."""

    def transform_module(self, mod: IRModule, _context: tvm.transform.PassContext) -> IRModule:
        """The pass."""
        for var, function in mod.functions_items():
            if isinstance(function, tirx.PrimFunc) and not function.attrs.get("tirx.is_scheduled", False):
                schedule = s_tir.Schedule(function)
                found = weight_block(schedule)
                if found is not None and found[1].op == MATMUL:
                    mod[var] = _schedule_matmul(schedule, found[0], found[1].layout)
        return mod


def _schedule_matmul(schedule: s_tir.Schedule, matmul: s_tir.schedule.SBlockRV, layout: Layout) -> tirx.PrimFunc:
    blocks = {schedule.get(block).name_hint: block for block in schedule.get_child_blocks(schedule.get_sblock("root"))}
    name = schedule.get(matmul).name_hint
    names = list(blocks)
    for after in reversed(names[names.index(name) + 1 :]):
        # Casts, biases, residuals and activations: computed where the products are written.
        if after != names[-1]:
            schedule.compute_inline(blocks[after])
    epilogue = blocks[names[-1]] if names[-1] != name else None
    *rows, features, inner = schedule.get_loops(matmul)
    block, lane = schedule.split(features, [None, LANES])
    schedule.reorder(block, *rows, inner, lane)
    schedule.parallel(block)
    if "dequantize" in blocks:
        schedule.compute_at(blocks["dequantize"], block)
        first, second = schedule.get_loops(blocks["dequantize"])[-2:]
        if layout == "NK":
            # Stored output-major: turned around on the way, so that lanes lie side by side.
            schedule.transform_layout(blocks["dequantize"], ("write", 0), lambda n, k: (k, n))
            schedule.reorder(second, first)
            schedule.vectorize(first)
        else:
            schedule.vectorize(second)
    schedule.vectorize(lane)
    if epilogue is not None:
        schedule.reverse_compute_at(epilogue, block)
    schedule.decompose_reduction(matmul, inner)
    return schedule.mod["main"].with_attr("tirx.is_scheduled", True)
