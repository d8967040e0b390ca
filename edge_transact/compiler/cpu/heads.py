"""Kernels for heads that lost dims: to rotate and pad them for the KV cache, and to take padding out.

One kernel serves all widths, which are arguments; the definition has a function for each combination of widths.
"""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script.builder import ir as builder

from edge_transact.compiler.lowering import PLAIN_LOOPS
from edge_transact.compiler.matmul import CacheHeads
from edge_transact.compiler.vector import cast, load, store

LANES = (8, 4, 1)
"""RoPE pairs that are rotated together, as many as are left."""

_OPAQUE = 8
_ATTRIBUTES = {**PLAIN_LOOPS, "op_pattern": _OPAQUE}
"""TVM would otherwise take these kernels for element-wise functions, and fuse others into them."""


def rope(cache_heads: CacheHeads, dtype: str, *, pairs: bool) -> PrimFunc:
    """The heads of a virtual KV layer, rotated and filled up, as ``EdgeLlamaAttention._rotated`` of the definition.

    Arguments: those of `edge_transact.compiler.gpu.heads.rope`.

    Args:
        cache_heads: Those of a virtual layer.
        dtype: The activations' dtype.
        pairs: The layer kept some of the RoPE pairs only.
    """
    h_q, h_kv, head_dim = cache_heads.num_attention_heads, cache_heads.num_key_value_heads, cache_heads.head_dim
    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        T.func_attr(_ATTRIBUTES)
        b, s, rows, before = (T.int64() for _ in range(4))
        handles = {name: T.arg(name, T.handle()) for name in ("qkv", "rotation", *(["pairs"] if pairs else []))}
        widths = [T.arg(name, T.int64()) for name in ("qk_head_dim", "v_head_dim", "layer")]
        qk, d_v, layer = (cast("int32", width) for width in widths)
        qkv = T.match_buffer(handles["qkv"], (b, s, rows), dtype)
        rotation = T.match_buffer(handles["rotation"], (2, b * s, before), "float32")
        # The shape, so that the library of a model refuses another one's pairs.
        virtual_layers = rows // ((h_q + h_kv) * widths[0] + h_kv * widths[1])
        kept = (virtual_layers * h_kv, widths[0] // 2)
        indices = T.match_buffer(handles["pairs"], kept, "int32") if pairs else None
        out = T.match_buffer(T.arg("out", T.handle()), (b * s, h_q + 2 * h_kv, head_dim), dtype)
        half = T.bind(qk // 2)
        turn = T.alloc_buffer((2, head_dim // 2), "float32")
        with T.serial(0, cast("int32", b * s)) as token:
            row = T.bind(token * cast("int32", rows) + layer * ((h_q + h_kv) * qk + h_kv * d_v))
            first = T.bind(token * ((h_q + 2 * h_kv) * head_dim))

            def pad(head: Expr, width: Expr, first: Expr = first) -> None:
                with T.serial(width, head_dim) as k:
                    T.buffer_store(out, T.Cast(dtype, T.float32(0)), [0, 0, first + head * head_dim + k])

            with T.serial(0, h_kv) as kv_head:
                if indices is not None:
                    with T.serial(0, half) as k:
                        for kind in range(2):
                            pair = indices[layer * h_kv + kv_head, k]
                            T.buffer_store(turn, rotation[kind, token, pair], [kind, k])
                # Its query heads, and then its key.
                with T.serial(0, h_q // h_kv + 1) as i:
                    head = T.bind(T.if_then_else(i < h_q // h_kv, kv_head * (h_q // h_kv) + i, h_q + kv_head))
                    source, to = T.bind(row + head * qk), T.bind(first + head * head_dim)

                    def rotate(k: Expr, lanes: int, token: Expr = token, source: Expr = source, to: Expr = to) -> None:
                        cosine, sine = (
                            T.bind(
                                load(rotation, [kind, token, k], lanes)
                                if indices is None
                                else load(turn, [kind, k], lanes)
                            )
                            for kind in range(2)
                        )
                        low, high = (
                            T.bind(cast("float32", load(qkv, [0, 0, source + at], lanes))) for at in (k, k + half)
                        )
                        store(out, cast(dtype, low * cosine - high * sine), [0, 0, to + k])
                        store(out, cast(dtype, high * cosine + low * sine), [0, 0, to + k + half])

                    done = T.int32(0)
                    for lanes in LANES:
                        with T.serial(done // lanes, half // lanes) as j:
                            rotate(T.bind(j * lanes), lanes)
                        done = T.bind(half // lanes * lanes)
                    pad(head, qk)
            with T.serial(0, h_kv) as kv_head:
                source = T.bind(row + (h_q + h_kv) * qk + kv_head * d_v)
                to = T.bind(first + (h_q + h_kv + kv_head) * head_dim)
                with T.serial(0, d_v) as k:
                    T.buffer_store(out, qkv[0, 0, source + k], [0, 0, to + k])
                pad(h_q + h_kv + kv_head, d_v)
    return ib.get()


def without_padding(dtype: str) -> PrimFunc:
    """Heads without what fills them up: ``x [b, s, heads, head_dim]`` and ``v_head_dim`` to ``[b, s, columns]``."""
    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        T.func_attr(_ATTRIBUTES)
        b, s, heads, head_dim, width = (T.int64() for _ in range(5))
        x = T.match_buffer(T.arg("x", T.handle()), (b, s, heads, head_dim), dtype)
        d_v = cast("int32", T.arg("v_head_dim", T.int64()))
        out = T.match_buffer(T.arg("out", T.handle()), (b, s, width), dtype)
        # A block, because TVM looks into functions of one tensor, whether they only reshape it.
        with T.sblock("root"), T.serial(0, cast("int32", b * s * heads)) as head, T.serial(0, d_v) as k:
            T.buffer_store(out, x[0, 0, 0, head * cast("int32", head_dim) + k], [0, 0, head * d_v + k])
    return ib.get()
