"""The embedding's rows, from packed weights."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Expr
from tvm.tirx.script.builder import ir as builder

from edge_transact.compiler.lowering import PLAIN_LOOPS
from edge_transact.compiler.vector import cast, lanes_of, splat, store
from edge_transact.quantization import GROUP_SIZE, VALUES_PER_WORD, WORDS_PER_GROUP, ZERO_POINT


def embed(scale_dtype: str) -> tirx.PrimFunc:
    """Rows of a packed NK matrix: ``ids [n], weight [rows, 4 G], scale [rows, G]`` to ``[n, K]``."""
    with IRBuilder() as ib, builder.prim_func(private=True, s_tir=True):
        T.func_attr(PLAIN_LOOPS)
        n, rows, features = T.int64(), T.int64(), T.int64()
        groups = (features + (GROUP_SIZE - 1)) // GROUP_SIZE
        ids = T.match_buffer(T.arg("ids", T.handle()), (n,), "int32")
        weight_handle, scale_handle = T.arg("weight", T.handle()), T.arg("scale", T.handle())
        out = T.match_buffer(T.arg("out", T.handle()), (n, features), scale_dtype)
        weight = T.match_buffer(weight_handle, (rows, groups * WORDS_PER_GROUP), "uint32")
        scale = T.match_buffer(scale_handle, (rows, groups), scale_dtype)

        def values(row: Expr, word: Expr, shifts: Expr) -> Expr:
            lanes = lanes_of(shifts)
            nibbles = T.bitwise_and(T.shift_right(splat(weight[row, word], lanes), shifts), splat(T.uint32(15), lanes))
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
