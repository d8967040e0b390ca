"""Schedules of the CPU's other kernels: matmuls in parallel over blocks of output features."""

from __future__ import annotations

from tvm import IRModule, s_tir, tirx

from edge_transact.compiler.matmul import MATMUL, Layout, weight_block

LANES = 16
"""Output features that are computed together, in one, two or four vector registers."""


def schedule_for_cpu(mod: IRModule) -> IRModule:
    """Schedule the matmuls; all other kernels stay as they are, single-threaded."""
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
    for consumer in reversed(names[names.index(name) + 1 :]):
        # Casts, biases, residuals and activations are computed where the result is stored.
        if consumer != names[-1]:
            schedule.compute_inline(blocks[consumer])
    epilogue = blocks[names[-1]] if names[-1] != name else None
    *rows, features, inner = schedule.get_loops(matmul)
    block, lane = schedule.split(features, [None, LANES])
    schedule.reorder(block, *rows, inner, lane)
    schedule.parallel(block)
    if "dequantize" in blocks:
        schedule.compute_at(blocks["dequantize"], block)
        first, second = schedule.get_loops(blocks["dequantize"])[-2:]
        if layout == "NK":
            # The weight is stored output-major; it is transposed so that adjacent lanes are adjacent in memory.
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
