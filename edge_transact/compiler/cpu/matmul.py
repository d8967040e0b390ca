"""W4A16 matmul kernels for CPUs: ``y = x W`` with packed weights, RMSNorm before and bias, gate and residual after it.

One row or a batch of rows is `decode`'s, any number of rows `prefill`'s.
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
    """A matmul whose decode is divided into `threads` parts.

    Arguments: ``x [batch, tokens, K], weight, scale[, norm][, bias][, residual], out [batch, tokens, width]``.
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
    """Matmuls of one row or a batch one after the other, each divided into `threads` parts.

    Arguments: those of all matmuls, then the results that are returned. Each matmul has its own instruction set.
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
    """Whether a result is as wide as a block of the kernels, at least."""
    return width >= max(least_width(isa, one_row=rows != "batch"), isa.lanes if gated else TILE_VECTORS * isa.lanes)
