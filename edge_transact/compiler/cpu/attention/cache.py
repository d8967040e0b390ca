"""What goes into the cache, turned by RoPE before, and attentions put together."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.script import tirx as T

from edge_transact.compiler.cpu.attention.heads import PAGE_SIZE, Attention
from edge_transact.compiler.cpu.attention.parts import function, tensor
from edge_transact.compiler.vector import cast, load, sin_cos, splat, store


def append(a: Attention) -> tirx.PrimFunc:
    """Keys and values ``[tokens, kv_heads, head_dim]`` to their places in the pages; those at -1 have none."""

    def body() -> None:
        tokens, num_pages = T.int32(), T.int32()
        pages_handle = T.arg("pages", T.handle())
        pages = T.match_buffer(
            pages_handle,
            (num_pages, 2, a.num_key_value_heads, PAGE_SIZE, a.head_dim),
            a.dtype,
            elem_offset=T.int64(),
        )
        sources = [tensor(name, (tokens, a.num_key_value_heads, a.head_dim), a.dtype) for name in ("k", "v")]
        positions = tensor("position_map", (tokens,), "int32", offset=True)
        with T.serial(0, tokens) as token:
            position = T.bind(positions[token])
            with T.If(position != -1), T.Then(), T.serial(0, a.num_key_value_heads) as head:
                for kind, source in enumerate(sources):
                    for i in range(0, a.head_dim, a.lanes):
                        store(
                            pages,
                            load(source, [token, head, i], a.lanes),
                            [position // PAGE_SIZE, kind, head, position % PAGE_SIZE, i],
                        )

    return function(body)


def split_rotary(a: Attention, frequencies: np.ndarray) -> tirx.PrimFunc:
    """``[tokens, heads, head_dim]`` of queries, keys and values to one tensor each, queries and keys turned by RoPE."""
    half, lanes = a.head_dim // 2, a.lanes
    heads = a.num_attention_heads + 2 * a.num_key_value_heads

    def body() -> None:
        tokens = T.int32()
        qkv = tensor("qkv", (tokens, heads, a.head_dim), a.dtype)
        positions = tensor("position_map", (tokens,), "int32", offset=True)
        q = tensor("q", (tokens, a.num_attention_heads, a.head_dim), a.dtype)
        k = tensor("k", (tokens, a.num_key_value_heads, a.head_dim), a.dtype)
        v = tensor("v", (tokens, a.num_key_value_heads, a.head_dim), a.dtype)
        apply_rope = T.arg("apply_rope", T.int64())
        table = T.alloc_buffer((half,), "float32")
        for i, frequency in enumerate(frequencies):
            T.buffer_store(table, T.float32(float(frequency)), [i])

        def rotate_token(token: Any) -> None:
            angles = T.alloc_buffer((2, half), "float32")
            position = T.bind(T.if_then_else(apply_rope > 0, cast("float32", positions[token]), T.float32(0)))
            for i in range(0, half, lanes):
                sine, cosine = sin_cos(T.bind(splat(position, lanes) * load(table, [i], lanes)))
                store(angles, sine, [0, i])
                store(angles, cosine, [1, i])

            def rotate(first: int, count: int, to: Any) -> None:
                with T.serial(0, count) as head:
                    for i in range(0, half, lanes):
                        sine, cosine = (T.bind(load(angles, [kind, i], lanes)) for kind in range(2))
                        low = T.bind(cast("float32", load(qkv, [token, head + first, i], lanes)))
                        high = T.bind(cast("float32", load(qkv, [token, head + first, i + half], lanes)))
                        store(to, cast(a.dtype, low * cosine - high * sine), [token, head, i])
                        store(to, cast(a.dtype, high * cosine + low * sine), [token, head, i + half])

            rotate(0, a.num_attention_heads, q)
            rotate(a.num_attention_heads, a.num_key_value_heads, k)
            with T.serial(0, a.num_key_value_heads) as head:
                for i in range(0, a.head_dim, lanes):
                    from_head = head + a.num_attention_heads + a.num_key_value_heads
                    store(v, load(qkv, [token, from_head, i], lanes), [token, head, i])

        # Waking the threads takes longer than one token.
        with T.If(tokens == 1):
            with T.Then():
                rotate_token(T.int32(0))
            with T.Else(), T.parallel(0, tokens) as token:
                rotate_token(token)

    return function(body)


def merge(a: Attention) -> tirx.PrimFunc:
    """Two attentions of the same queries to different keys, into the first, in place."""
    lanes = a.lanes

    def body() -> None:
        rows, heads, d = T.int32(), T.int32(), T.int32()
        v = tensor("v", (rows, heads, d), a.dtype)
        s = tensor("s", (rows, heads), "float32")
        v_other = tensor("v_other", (rows, heads, d), a.dtype)
        s_other = tensor("s_other", (rows, heads), "float32")
        with T.parallel(0, rows) as row, T.serial(0, heads) as head:
            maximum = T.bind(T.max(s[row, head], s_other[row, head]))
            own, other = T.bind(T.exp2(s[row, head] - maximum)), T.bind(T.exp2(s_other[row, head] - maximum))
            total = T.bind(own + other)
            with T.serial(0, d // lanes) as i:
                merged = cast("float32", load(v, [row, head, i * lanes], lanes)) * splat(own / total, lanes) + cast(
                    "float32", load(v_other, [row, head, i * lanes], lanes)
                ) * splat(other / total, lanes)
                store(v, cast(a.dtype, merged), [row, head, i * lanes])
            T.buffer_store(s, maximum + T.log2(total), [row, head])

    return function(body)
