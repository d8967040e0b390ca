"""The embedding's rows on GPUs."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as builder

from edge_transact.compiler.gpu.source import blocks
from edge_transact.compiler.vector import cast
from edge_transact.quantization import GROUP_SIZE, VALUES_PER_WORD, WORDS_PER_GROUP, ZERO_POINT

THREADS = 64


def embed(scale_dtype: str) -> tirx.PrimFunc:
    """Rows of a packed NK matrix: ``ids [n], weight [rows, 4 G], scale [rows, G]`` to ``[n, K]``; a thread a value."""
    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
        n, rows, features = T.int64(), T.int64(), T.int64()
        groups = (features + (GROUP_SIZE - 1)) // GROUP_SIZE
        ids = T.match_buffer(T.arg("ids", T.handle()), (n,), "int32")
        weight = T.match_buffer(T.arg("weight", T.handle()), (rows, groups * WORDS_PER_GROUP), "uint32")
        scale = T.match_buffer(T.arg("scale", T.handle()), (rows, groups), scale_dtype)
        out = T.match_buffer(T.arg("out", T.handle()), (n, features), scale_dtype)
        width = T.bind(cast("int32", features))
        with (
            T.thread_binding(cast("int32", n), thread="blockIdx.y") as i,
            T.thread_binding(blocks(width, THREADS), thread="blockIdx.x") as block,
            T.thread_binding(THREADS, thread="threadIdx.x") as thread,
        ):
            k = T.bind(block * THREADS + thread)
            with T.If(k < width), T.Then():
                # A vocabulary times its features may exceed 32 bits.
                row = T.bind(cast("int64", ids[i]))
                word = weight[row, k // VALUES_PER_WORD]
                nibble = T.bitwise_and(T.shift_right(word, cast("uint32", k % VALUES_PER_WORD * 4)), T.uint32(15))
                signed = cast("float32", cast("int32", nibble) - ZERO_POINT)
                value = signed * cast("float32", scale[row, k // GROUP_SIZE])
                T.buffer_store(out, cast(scale_dtype, value), [i, k])
    return ib.get()
