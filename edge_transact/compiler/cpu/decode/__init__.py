"""Matmuls of one row, or of a row of each of several sequences: bound by memory.

Each thread streams its own part of the packed weights once, in memory order: some of the columns (NK), or some of the
groups (KN), whose sums are added. Consecutive matmuls share one launch, with a barrier between them
(``pragma_parallel_launch_point`` and ``pragma_parallel_barrier_when_finish`` of TVM's ``codegen_cpu.cc``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu.buffers import MatmulBuffers
from edge_transact.compiler.cpu.decode.base import LAST_ROWS, DecodeMatmul, Scratch
from edge_transact.compiler.cpu.decode.batch_nk import BatchNK
from edge_transact.compiler.cpu.decode.kn import DecodeKN
from edge_transact.compiler.cpu.decode.nk import DecodeNK
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.matmul import Layout, Matmul
from edge_transact.compiler.vector import align_stack

_OF_ONE_ROW: dict[Layout, type[DecodeMatmul]] = {"KN": DecodeKN, "NK": DecodeNK}
_OF_A_BATCH: dict[Layout, type[DecodeMatmul]] = {"KN": DecodeKN, "NK": BatchNK}


def decode(matmuls: Sequence[MatmulBuffers], isas: Sequence[InstructionSet], threads: int, *, one_row: bool) -> None:
    """Emit matmuls one after the other, each divided into `threads` parts; instruction sets are of one class."""
    rows = 1 if one_row else T.bind((matmuls[0].rows + (LAST_ROWS - 1)) // LAST_ROWS * LAST_ROWS)
    kinds = _OF_ONE_ROW if one_row else _OF_A_BATCH
    scratch = Scratch(matmuls, isas, least_width(isas[0], one_row=one_row), threads, rows)
    stages = [
        kinds[buffers.matmul.layout](number, buffers, isa, scratch, threads)
        for number, (buffers, isa) in enumerate(zip(matmuls, isas, strict=True))
    ]

    def run(number: int, thread: Expr) -> None:
        stage = stages[number]
        if number == 0:
            align_stack(isas[0].lanes)  # for all steps: they are one function
            stage.prefetch_first(thread)
        elif stages[number - 1].in_parts:
            _finish_parts(stages, number - 1, thread)
        stage.multiply(thread)
        if not stage.in_parts:
            stage.finish(thread, *stage.share(thread))
        # These weights arrive while the thread waits for the others.
        if number + 1 < len(stages):
            stages[number + 1].prefetch_first(thread)

    def finish_last(thread: Expr) -> None:
        stages[-1].finish(thread, *stages[-1].share(thread))

    steps: list[Callable[[Expr], None]] = [partial(run, number) for number in range(len(stages))]
    if stages[-1].in_parts:
        steps.append(finish_last)
    if threads == 1:
        # TVM removes the loop of a launch of one thread before it generates code.
        for step in steps:
            step(T.int32(0))
        return
    if len(steps) == 1:
        with T.parallel(0, threads) as thread:
            steps[0](thread)
        return
    with T.attr(T.int32(0), "pragma_parallel_launch_point", 1):
        for step in steps[:-1]:
            with T.attr(T.int32(0), "pragma_parallel_barrier_when_finish", 1), T.parallel(0, threads) as thread:
                step(thread)
        with T.parallel(0, threads) as thread:
            steps[-1](thread)


def least_width(isa: InstructionSet, *, one_row: bool) -> int:
    """The fewest columns of a matrix: those of a KN block, which are no fewer than those of an NK block."""
    return DecodeKN.block_columns(isa, one_row=one_row)


def copies_results(matmul: Matmul) -> bool:
    """Whether each thread has its own copy of the result when another matmul follows."""
    return _OF_ONE_ROW[matmul.layout].in_parts


def _finish_parts(stages: Sequence[DecodeMatmul], number: int, thread: Expr) -> None:
    """Finish the results of a matmul that later ones need, in the thread's own copy."""
    stage, (following, *others) = stages[number], stages[number + 1 :]
    out = stage.buffers.out
    first, end = T.int32(0), stage.blocks
    read_later = any(out is buffer for other in others for buffer in (other.buffers.x, other.buffers.residual))
    is_next_x = following.buffers.x is out and following.buffers.norm is None
    if is_next_x and not read_later and stage.buffers.returned is None:
        # Only the groups that the thread multiplies next.
        first_group, end_group = following.groups(thread)
        blocks_per_group = following.matmul.quantization.group_size // stage.columns
        first, end = first_group * blocks_per_group, T.min(end, end_group * blocks_per_group)
    stage.finish(thread, first, end)
    if stage.buffers.returned is not None:
        stage.return_share(thread)
