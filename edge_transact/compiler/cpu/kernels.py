"""Selects W4A16 kernels for CPUs, with what surrounds a matmul in a LLaMA, and unpacks the embedding's rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import get_args

import tvm
from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Expr

from edge_transact.compiler.cpu import isa
from edge_transact.compiler.cpu.buffers import MatmulBuffers
from edge_transact.compiler.cpu.decode import copies_results, decode, least_width
from edge_transact.compiler.cpu.isa import InstructionSet
from edge_transact.compiler.cpu.prefill import TILE_VECTORS, prefill
from edge_transact.compiler.lowering import PLAIN_LOOPS
from edge_transact.compiler.matmul import ChainedMatmul, Matmul, Rows, rows_of
from edge_transact.compiler.vector import cast, kernel_body, lanes_of, splat, store, tensor
from edge_transact.quantization import Quantization


def kernel(matmul: Matmul, isa: InstructionSet, threads: int, *, rows: Rows) -> tirx.PrimFunc:
    """A matmul whose decode is divided into `threads` parts.

    Arguments: ``x [batch, tokens, K], weight, scale[, norm][, bias][, residual], out [batch, tokens, width]``.
    """
    with kernel_body(PLAIN_LOOPS, private=True) as ib:
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
    with kernel_body(PLAIN_LOOPS, private=True) as ib:
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


def embed(quantization: Quantization) -> tirx.PrimFunc:
    """Rows of a packed NK matrix: ``ids [n], weight [rows, 4 G], scale [rows, G]`` to ``[n, K]``."""
    size, dtype, per_word = quantization.group_size, quantization.model_dtype, quantization.values_per_word
    with kernel_body(PLAIN_LOOPS, private=True) as ib:
        n, rows, features = T.int64(), T.int64(), T.int64()
        groups = (features + (size - 1)) // size
        ids = tensor("ids", (n,), "int32")
        weight_handle, scale_handle = T.arg("weight", T.handle()), T.arg("scale", T.handle())
        out = tensor("out", (n, features), dtype)
        weight = T.match_buffer(weight_handle, (rows, groups * quantization.words_per_group), "uint32")
        scale = T.match_buffer(scale_handle, (rows, groups), dtype)

        def values(row: Expr, word: Expr, shifts: Expr) -> Expr:
            lanes = lanes_of(shifts)
            nibbles = T.bitwise_and(T.shift_right(splat(weight[row, word], lanes), shifts), splat(T.uint32(15), lanes))
            signed = cast("float32", cast("int32", nibbles) - splat(T.int32(quantization.zero_point), lanes))
            return cast(dtype, signed * splat(cast("float32", scale[row, word // quantization.words_per_group]), lanes))

        with T.serial(0, n) as i:
            row = T.bind(ids[i])
            with T.serial(0, features // per_word) as word:
                shifts = cast("uint32", T.ramp(T.int32(0), 4, per_word))
                store(out, values(row, word, shifts), [i, word * per_word])
            with T.serial(features // per_word * per_word, features) as k:
                shift = cast("uint32", k % per_word * 4)
                T.buffer_store(out, values(row, k // per_word, shift), [i, k])
    return ib.get()


class CPUKernels:
    """The CPU's kernels, for `passes.fuse_matmuls`, of a target's instruction set and ``num-cores``."""

    embed = staticmethod(embed)

    def __init__(self, target: tvm.target.Target, max_batch_size: int) -> None:
        self.threads = int(target.attrs["num-cores"])
        self._max_batch_size = max_batch_size
        self._instructions = {
            (digits, rows): isa.select(target, digits, rows) for digits in (2, 3) for rows in get_args(Rows)
        }

    def takes_norm(self, x: Sequence[tirx.Expr], dtype: str) -> bool:
        """Whether the kernel applies the RMSNorm before its matmul: all do."""
        return True

    def rows(self, x: Sequence[tirx.Expr]) -> Rows:
        """The kind of rows that select a kernel: a batch has its own kernels only in a library for batches."""
        rows = rows_of(x)
        return "any" if rows == "batch" and self._max_batch_size == 1 else rows

    def instructions(self, matmul: Matmul, *, rows: Rows) -> isa.InstructionSet:
        """The instruction set of a matmul. Where it multiplies bytes, fp16 activations keep 16 bits."""
        return self._instructions[2 if matmul.dtype == "float16" else 3, rows]

    def select(
        self, matmul: Matmul, x: Sequence[tirx.Expr], width: int
    ) -> tuple[Hashable, Callable[[], tirx.PrimFunc]] | None:
        """A key that matmuls of the same kernel share, and a function that makes it; `None` without such a kernel.

        Activations are ``x [batch, tokens, K]``, and `width` is the number of columns of the result.
        """
        rows = self.rows(x)
        instructions = self.instructions(matmul, rows=rows)
        if not supports(width, instructions, rows, gated=matmul.gated):
            return None
        return (matmul, rows), lambda: kernel(matmul, instructions, self.threads, rows=rows)

    def chain(self, matmuls: tuple[ChainedMatmul, ...], rows: Rows) -> tirx.PrimFunc:
        """Matmuls of one row or a batch, one after the other."""
        instructions = [self.instructions(chained.matmul, rows=rows) for chained in matmuls]
        return chain(matmuls, instructions, self.threads, rows=rows)
