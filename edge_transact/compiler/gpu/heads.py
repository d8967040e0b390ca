"""Kernels that rotate and pad heads that lost dims, or remove the padding, next to matmuls that aren't ours."""

from __future__ import annotations

from tvm import tirx
from tvm.script import tirx as T

from edge_transact.compiler.gpu.source import blocks
from edge_transact.compiler.heads import OPAQUE, PaddingArguments, RopeArguments
from edge_transact.compiler.lowering import SCHEDULED
from edge_transact.compiler.matmul import CacheHeads
from edge_transact.compiler.vector import cast, kernel_body

THREADS = 64

_ATTRIBUTES = SCHEDULED | OPAQUE


def rope(cache_heads: CacheHeads, dtype: str, *, pairs: bool) -> tirx.PrimFunc:
    """A kernel of `RopeArguments` that rotates and pads heads, as the definition's ``EdgeLlamaAttention._rotated``."""
    h_q, h_kv, head_dim = cache_heads.num_attention_heads, cache_heads.num_key_value_heads, cache_heads.head_dim
    heads = h_q + 2 * h_kv
    with kernel_body(_ATTRIBUTES) as ib:
        a = RopeArguments(cache_heads, dtype, pairs=pairs)
        with (
            T.thread_binding(a.tokens, thread="blockIdx.y") as token,
            T.thread_binding(-(-heads * head_dim // THREADS), thread="blockIdx.x") as block,
            T.thread_binding(THREADS, thread="threadIdx.x") as thread,
        ):
            i = T.bind(block * THREADS + thread)
            with T.If(i < heads * head_dim), T.Then():
                head, k = T.bind(i // head_dim), T.bind(i % head_dim)
                row = T.bind(token * a.rows + a.layer * ((h_q + h_kv) * a.qk + h_kv * a.d_v))
                value = T.alloc_buffer((1,), "float32", scope="local")
                T.buffer_store(value, T.float32(0), [0])
                with T.If(head < h_q + h_kv):
                    with T.Then(), T.If(k < a.qk), T.Then():
                        half = T.bind(a.qk // 2)
                        pair = T.bind(k % half)
                        if a.pairs is not None:
                            kv_head = T.Select(head < h_q, head // (h_q // h_kv), head - h_q)
                            pair = T.bind(a.pairs[a.layer * h_kv + kv_head, pair])
                        first = T.bind(row + head * a.qk)
                        x = cast("float32", a.qkv[0, 0, first + k])
                        y = cast("float32", a.qkv[0, 0, first + (k + half) % a.qk])
                        sign = T.Select(k < half, T.float32(-1), T.float32(1))
                        turned = x * a.rotation[0, token, pair] + sign * y * a.rotation[1, token, pair]
                        T.buffer_store(value, turned, [0])
                    with T.Else(), T.If(k < a.d_v), T.Then():
                        index = row + (h_q + h_kv) * a.qk + (head - h_q - h_kv) * a.d_v + k
                        T.buffer_store(value, cast("float32", a.qkv[0, 0, index]), [0])
                T.buffer_store(a.out, cast(dtype, value[0]), [0, 0, token * (heads * head_dim) + i])
    return ib.get()


def without_padding(dtype: str) -> tirx.PrimFunc:
    """A kernel of `PaddingArguments` that removes the padding of heads."""
    with kernel_body(_ATTRIBUTES) as ib:
        a = PaddingArguments(dtype)
        # A block, because TVM checks whether functions of one tensor only reshape it.
        with (
            T.sblock("root"),
            T.thread_binding(a.tokens, thread="blockIdx.y") as token,
            T.thread_binding(blocks(a.columns, THREADS), thread="blockIdx.x") as block,
            T.thread_binding(THREADS, thread="threadIdx.x") as thread,
        ):
            i = T.bind(block * THREADS + thread)
            with T.If(i < a.columns), T.Then():
                head = T.bind(token * a.heads + i // a.d_v)
                T.buffer_store(a.out, a.x[0, 0, 0, head * a.head_dim + i % a.d_v], [0, 0, token * a.columns + i])
    return ib.get()
