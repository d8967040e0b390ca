"""W4A16 matmul kernels for CPUs, ``y = x W`` with packed weights, for one row or a batch (`decode`) or any (`prefill`).

What a LLaMA computes around a matmul is part of the kernel: RMSNorm before it; bias, residual and SiLU gate after it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as builder

from edge_transact.compiler.cpu.buffers import MatmulBuffers
from edge_transact.compiler.cpu.decode import copies_results, decode, least_width
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.cpu.prefill import TILE_VECTORS, prefill
from edge_transact.compiler.lowering import PLAIN_LOOPS
from edge_transact.compiler.matmul import ChainedMatmul, Matmul, Rows


def kernel(matmul: Matmul, isa: InstructionSet, threads: int, *, rows: Rows) -> tirx.PrimFunc:
    """A matmul as a PrimFunc.

    Its arguments are ``x [batch, tokens, K], weight, scale[, norm][, bias][, residual], out [batch, tokens, width]``.

    Args:
        matmul: What to compute.
        isa: The instruction set.
        threads: The number of parts that decode is cut into.
        rows: The rows of `x`.
    """
    with IRBuilder() as ib, builder.prim_func(private=True, s_tir=True):
        T.func_attr(PLAIN_LOOPS)
        arguments = {name: T.arg(name, T.handle()) for name in (*matmul.operands, "out")}
        buffers = MatmulBuffers(matmul, arguments, rows=rows)
        if rows == "any":
            prefill(buffers, isa)
        else:
            decode([buffers], [isa], threads, one_row=rows == "one")
    return ib.get()


def chain(
    matmuls: Sequence[ChainedMatmul], isas: Sequence[InstructionSet], threads: int, *, rows: Rows
) -> tirx.PrimFunc:
    """Matmuls one after the other, as a PrimFunc of the arguments of all and then their results.

    Args:
        matmuls: What to compute.
        isas: The instruction set of each.
        threads: The number of parts that each matmul is cut into.
        rows: The rows of the activations: one, or a batch.
    """
    with IRBuilder() as ib, builder.prim_func(private=True, s_tir=True):
        T.func_attr(PLAIN_LOOPS)
        arguments = [
            {name: T.arg(f"{name}_{i}", T.handle()) for name in chained.arguments} for i, chained in enumerate(matmuls)
        ]
        for i, chained in enumerate(matmuls):
            if chained.returned:
                arguments[i]["out"] = T.arg(f"out_{i}", T.handle())
        made: list[MatmulBuffers] = []
        for i, (chained, own) in enumerate(zip(matmuls, arguments, strict=True)):
            given = {name: made[source].out for name, source in chained.given}
            copies = threads if copies_results(chained.matmul) and i + 1 < len(matmuls) else 0
            made.append(MatmulBuffers(chained.matmul, own, rows=rows, given=given, copies=copies))
        decode(made, isas, threads, one_row=rows == "one")
    return ib.get()


def supports(width: int, isa: InstructionSet, rows: Rows, *, gated: bool) -> bool:
    """Whether a result is wide enough for the kernels: at least as many columns as a block has."""
    return width >= max(least_width(isa, one_row=rows != "batch"), isa.lanes if gated else TILE_VECTORS * isa.lanes)
