"""Matmuls of one row, or of a row of each of several sequences: bound by memory.

Each thread streams its own columns of the packed weights once, with wide loads, prefetches the next ones, and keeps
everything else in registers and the L1 cache. Each packs all activations itself, which is faster than waiting for
another thread to do it. Matmuls that follow each other share one launch: between them threads meet at a barrier, which
costs less than ending the launch and waking them again (``pragma_parallel_launch_point`` and
``pragma_parallel_barrier_when_finish`` of TVM's ``codegen_cpu.cc``).
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script import tirx as T

from edge_transact.compiler.cpu.buffers import MatmulBuffers
from edge_transact.compiler.cpu.decode.base import LAST_ROWS, DecodeMatmul, Scratch
from edge_transact.compiler.cpu.decode.batch_nk import BatchNK
from edge_transact.compiler.cpu.decode.kn import DecodeKN
from edge_transact.compiler.cpu.decode.nk import DecodeNK
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.matmul import Layout

HEAD_START_BYTES = 32 << 10
"""Weights that the calling thread reads more than the others, which start a microsecond later."""

COLUMNS = DecodeKN.columns
"""The columns that a matrix needs at least: those of a KN block, which are more than those of an NK block."""

_OF_ONE_ROW: dict[Layout, type[DecodeMatmul]] = {"KN": DecodeKN, "NK": DecodeNK}
_OF_A_BATCH: dict[Layout, type[DecodeMatmul]] = {"KN": DecodeKN, "NK": BatchNK}


def decode(matmuls: Sequence[MatmulBuffers], isas: Sequence[InstructionSet], threads: int, *, one_row: bool) -> None:
    """Emit matmuls of one row, one after the other, each cut into as many parts as there are threads.

    Args:
        matmuls: What to compute.
        isas: The instruction set of each, all of one class.
        threads: Threads of the launch.
        one_row: If not, there is a row of each of several sequences, and one matmul.
    """
    rows = 1 if one_row else T.bind((matmuls[0].rows + (LAST_ROWS - 1)) // LAST_ROWS * LAST_ROWS)
    kinds = _OF_ONE_ROW if one_row else _OF_A_BATCH
    scratch = Scratch(matmuls, isas, max(kind.columns for kind in kinds.values()), threads, rows)
    stages: list[DecodeMatmul] = []
    for buffers, isa in zip(matmuls, isas, strict=True):
        kind = kinds[buffers.matmul.layout]
        stages.append(kind(buffers, isa, scratch, threads, head_start_bytes=0 if stages else HEAD_START_BYTES))

    def run(number: int) -> None:
        with T.parallel(0, threads) as thread:
            if number == 0:
                stages[0].prefetch_first(thread)
            stages[number].multiply(thread)
            # These weights arrive while the thread waits for the others.
            if number + 1 < len(stages):
                stages[number + 1].prefetch_first(thread)

    if len(stages) == 1:
        run(0)
        return
    with T.attr(T.int32(0), "pragma_parallel_launch_point", 1):
        for number in range(len(stages) - 1):
            with T.attr(T.int32(0), "pragma_parallel_barrier_when_finish", 1):
                run(number)
        run(len(stages) - 1)
