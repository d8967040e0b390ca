"""W4A16 products on CPUs: ``y = x W`` with packed weights, for one row (`decode`) and for any number (`prefill`).

What surrounds a product in a LLaMA, RMSNorm before it, bias, residual, SiLU gate after it, is done in the same pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as builder

from edge_transact.compiler.cpu.decode import DECODE_COLUMNS, BoundMatmul, decode
from edge_transact.compiler.cpu.isa import Fp32
from edge_transact.compiler.cpu.operands import Operands
from edge_transact.compiler.cpu.prefill import prefill
from edge_transact.compiler.lowering import PLAIN_LOOPS
from edge_transact.compiler.matmul import ChainedMatmul, Matmul
from edge_transact.compiler.vector import cast, lanes_of, splat, store
from edge_transact.quantization import GROUP_SIZE, VALUES_PER_WORD, WORDS_PER_GROUP, ZERO_POINT


def kernel(matmul: Matmul, isa: Fp32, threads: int, *, one_row: bool) -> tirx.PrimFunc:
    """The product as a PrimFunc.

    Of ``x [batch, tokens, K], weight, scale[, norm][, bias][, residual], out [batch, tokens, width]``.

    Args:
        matmul: What to compute.
        isa: With which instructions.
        threads: How many parts decode is cut into.
        one_row: Batch and tokens are 1: decode.
    """
    with IRBuilder() as ib, builder.prim_func(private=True, s_tir=True):
        T.func_attr(PLAIN_LOOPS)
        arguments = {name: T.arg(name, T.handle()) for name in (*matmul.operands, "out")}
        operands = Operands(matmul, arguments, one_row=one_row)
        if one_row:
            decode([BoundMatmul(matmul, isa, operands)], threads)
        else:
            prefill(matmul, isa, operands)
    return ib.get()


def chain(matmuls: Sequence[ChainedMatmul], isas: Sequence[Fp32], threads: int) -> tirx.PrimFunc:
    """Products of one row, one after the other, as a PrimFunc of the arguments of all and then their results.

    Args:
        matmuls: What to compute.
        isas: With which instructions, one each.
        threads: How many parts each is cut into.
    """
    with IRBuilder() as ib, builder.prim_func(private=True, s_tir=True):
        T.func_attr(PLAIN_LOOPS)
        arguments = [
            {name: T.arg(f"{name}_{i}", T.handle()) for name in chained.arguments} for i, chained in enumerate(matmuls)
        ]
        for i, chained in enumerate(matmuls):
            if chained.returned:
                arguments[i]["out"] = T.arg(f"out_{i}", T.handle())
        made: list[Operands] = []
        for chained, of_matmul in zip(matmuls, arguments, strict=True):
            given = {name: made[source].out for name, source in chained.given}
            made.append(Operands(chained.matmul, of_matmul, one_row=True, given=given))
        decode(
            [BoundMatmul(chained.matmul, isa, a) for chained, isa, a in zip(matmuls, isas, made, strict=True)], threads
        )
    return ib.get()


def supports(width: int, isa: Fp32, *, gated: bool) -> bool:
    """Whether a matrix is large enough for the kernels: at least as many columns of the result as a tile has."""
    return width >= max(DECODE_COLUMNS, isa.lanes if gated else 2 * isa.lanes)


def embed(scale_dtype: str) -> tirx.PrimFunc:
    """Rows of a packed NK matrix: ``ids [n], weight [rows, 4 G], scale [rows, G]`` to ``[n, K]``."""
    with IRBuilder() as ib:
        with builder.prim_func(private=True, s_tir=True):
            T.func_attr(PLAIN_LOOPS)
            n, rows, features = T.int64(), T.int64(), T.int64()
            groups = (features + (GROUP_SIZE - 1)) // GROUP_SIZE
            ids = T.match_buffer(T.arg("ids", T.handle()), (n,), "int32")
            weight_handle, scale_handle = T.arg("weight", T.handle()), T.arg("scale", T.handle())
            out = T.match_buffer(T.arg("out", T.handle()), (n, features), scale_dtype)
            weight = T.match_buffer(weight_handle, (rows, groups * WORDS_PER_GROUP), "uint32")
            scale = T.match_buffer(scale_handle, (rows, groups), scale_dtype)

            def values(row: Any, word: Any, shifts: Any) -> Any:
                lanes = lanes_of(shifts)
                nibbles = T.bitwise_and(
                    T.shift_right(splat(weight[row, word], lanes), shifts), splat(T.uint32(15), lanes)
                )
                signed = cast("float32", cast("int32", nibbles) - splat(T.int32(ZERO_POINT), lanes))
                return cast(scale_dtype, signed * splat(cast("float32", scale[row, word // WORDS_PER_GROUP]), lanes))

            with T.serial(0, n) as i:
                row = T.bind(ids[i])
                with T.serial(0, features // VALUES_PER_WORD) as word:
                    shifts = cast("uint32", T.ramp(T.int32(0), 4, VALUES_PER_WORD))
                    store(out, values(row, word, shifts), [i, word * VALUES_PER_WORD])
                with T.serial(features // VALUES_PER_WORD * VALUES_PER_WORD, features) as k:
                    shift = cast("uint32", k % VALUES_PER_WORD * 4)
                    T.buffer_store(out, values(row, k // VALUES_PER_WORD, shift), [i, k])
    return ib.get()
