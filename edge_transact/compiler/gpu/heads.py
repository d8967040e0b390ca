"""Kernels next to matmuls that aren't ours, for heads that lost dims: to rotate and pad them, and to take padding out.

Our own matmuls do both themselves. One kernel serves all widths, which are arguments; the definition has a function for
each combination of widths.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as builder

from edge_transact.compiler.gpu.source import blocks
from edge_transact.compiler.matmul import CacheHeads
from edge_transact.compiler.vector import cast

THREADS = 64

_OPAQUE = 8
_ATTRIBUTES = {"tirx.noalias": True, "tirx.is_scheduled": True, "op_pattern": _OPAQUE}
"""TVM would otherwise take these kernels for element-wise functions, and fuse others into them."""


def rope(cache_heads: CacheHeads, dtype: str, *, pairs: bool) -> tirx.PrimFunc:
    """The heads of a virtual KV layer, rotated and filled up, as ``EdgeLlamaAttention._rotated`` of the definition.

    Arguments: ``qkv [b, s, rows of qkv_proj]``, ``rotation [2, b s, pairs before pruning]``, with `pairs` also
    ``rope_pairs [num_key_value_heads of the layer, pairs]``; ``qk_head_dim``, ``v_head_dim`` and the number of the
    virtual layer within its layer, int64; the result ``[b s, heads, head_dim]``.

    Args:
        cache_heads: Those of a virtual layer.
        dtype: The activations' dtype.
        pairs: The layer kept some of the RoPE pairs only.
    """
    h_q, h_kv, head_dim = (
        cache_heads.num_attention_heads,
        cache_heads.num_key_value_heads,
        cache_heads.head_dim,
    )
    heads = h_q + 2 * h_kv
    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        T.func_attr(_ATTRIBUTES)
        b, s, rows, before, layer_heads = (T.int64() for _ in range(5))
        qkv = T.match_buffer(T.arg("qkv", T.handle()), (b, s, rows), dtype)
        rotation = T.match_buffer(T.arg("rotation", T.handle()), (2, b * s, before), "float32")
        kept = T.int64()
        indices = T.match_buffer(T.arg("pairs", T.handle()), (layer_heads, kept), "int32") if pairs else None
        qk, d_v, layer = (cast("int32", T.arg(name, T.int64())) for name in ("qk_head_dim", "v_head_dim", "layer"))
        out = T.match_buffer(T.arg("out", T.handle()), (b * s, heads, head_dim), dtype)
        with (
            T.thread_binding(cast("int32", b * s), thread="blockIdx.y") as token,
            T.thread_binding(-(-heads * head_dim // THREADS), thread="blockIdx.x") as block,
            T.thread_binding(THREADS, thread="threadIdx.x") as thread,
        ):
            i = T.bind(block * THREADS + thread)
            with T.If(i < heads * head_dim), T.Then():
                head, k = T.bind(i // head_dim), T.bind(i % head_dim)
                row = T.bind(token * cast("int32", rows) + layer * ((h_q + h_kv) * qk + h_kv * d_v))
                value = T.alloc_buffer((1,), "float32", scope="local")
                T.buffer_store(value, T.float32(0), [0])
                with T.If(head < h_q + h_kv):
                    with T.Then(), T.If(k < qk), T.Then():
                        half = T.bind(qk // 2)
                        pair = T.bind(k % half)
                        if indices is not None:
                            kv_head = T.Select(head < h_q, head // (h_q // h_kv), head - h_q)
                            pair = T.bind(indices[layer * h_kv + kv_head, pair])
                        first = T.bind(row + head * qk)
                        x = cast("float32", qkv[0, 0, first + k])
                        y = cast("float32", qkv[0, 0, first + (k + half) % qk])
                        sign = T.Select(k < half, T.float32(-1), T.float32(1))
                        T.buffer_store(value, x * rotation[0, token, pair] + sign * y * rotation[1, token, pair], [0])
                    with T.Else(), T.If(k < d_v), T.Then():
                        index = row + (h_q + h_kv) * qk + (head - h_q - h_kv) * d_v + k
                        T.buffer_store(value, cast("float32", qkv[0, 0, index]), [0])
                T.buffer_store(out, cast(dtype, value[0]), [0, 0, token * (heads * head_dim) + i])
    return ib.get()


def without_padding(dtype: str) -> tirx.PrimFunc:
    """Heads without what fills them up: ``x [b, s, heads, head_dim]`` and ``v_head_dim`` to ``[b, s, columns]``."""
    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        T.func_attr(_ATTRIBUTES)
        b, s, heads, head_dim, width = (T.int64() for _ in range(5))
        x = T.match_buffer(T.arg("x", T.handle()), (b, s, heads, head_dim), dtype)
        d_v = cast("int32", T.arg("v_head_dim", T.int64()))
        out = T.match_buffer(T.arg("out", T.handle()), (b, s, width), dtype)
        # A block, because TVM looks into functions of one tensor, whether they only reshape it.
        with T.sblock("root"):
            n = T.bind(cast("int32", width))
            with (
                T.thread_binding(cast("int32", b * s), thread="blockIdx.y") as token,
                T.thread_binding(blocks(n, THREADS), thread="blockIdx.x") as block,
                T.thread_binding(THREADS, thread="threadIdx.x") as thread,
            ):
                i = T.bind(block * THREADS + thread)
                with T.If(i < n), T.Then():
                    head = T.bind(token * cast("int32", heads) + i // d_v)
                    T.buffer_store(out, x[0, 0, 0, head * cast("int32", head_dim) + i % d_v], [0, 0, token * n + i])
    return ib.get()
