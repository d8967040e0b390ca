"""RoPE, the append to the KV cache, and the merge of two attentions."""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.cpu.attention.parts import PAGE_SIZE, Attention
from edge_transact.compiler.lowering import PLAIN_LOOPS
from edge_transact.compiler.vector import cast, kernel_body, load, sin_cos, splat, store, tensor


def append(a: Attention) -> tirx.PrimFunc:
    """Copy keys and values ``[tokens, kv_heads, head_dim]`` to their positions in the pages; -1 is no position."""
    with kernel_body(PLAIN_LOOPS, name="main") as ib:
        tokens, num_pages = T.int32(), T.int32()
        shape = (num_pages, 2, a.num_key_value_heads, PAGE_SIZE, a.head_dim)
        pages = tensor("pages", shape, a.dtype, T.int64())
        sources = [tensor(name, (tokens, a.num_key_value_heads, a.head_dim), a.dtype) for name in ("k", "v")]
        positions = tensor("position_map", (tokens,), "int32", T.int32())
        with T.serial(0, tokens) as token:
            position = T.bind(positions[token])
            with T.If(position != -1), T.Then(), T.serial(0, a.num_key_value_heads) as head:
                for kind, source in enumerate(sources):
                    for i in range(0, a.head_dim, a.lanes):
                        place = [position // PAGE_SIZE, kind, head, position % PAGE_SIZE, i]
                        store(pages, load(source, [token, head, i], a.lanes), place)
    return ib.get()


def split_rotary(a: Attention, frequencies: np.ndarray) -> tirx.PrimFunc:
    """Split ``[tokens, heads, head_dim]`` into queries, keys and values, and apply RoPE to queries and keys."""
    with kernel_body(PLAIN_LOOPS, name="main") as ib:
        tokens = T.int32()
        rotary = _Rotary(a, tokens, frequencies)
        # Waking the threads takes longer than one token.
        with T.If(tokens == 1):
            with T.Then():
                rotary.split_token(T.int32(0))
            with T.Else(), T.parallel(0, tokens) as token:
                rotary.split_token(token)
    return ib.get()


class _Rotary:
    """The arguments of `split_rotary`, and the work on one token."""

    def __init__(self, a: Attention, tokens: Expr, frequencies: np.ndarray) -> None:
        self.a, self.half = a, a.head_dim // 2
        heads = a.num_attention_heads + 2 * a.num_key_value_heads
        self.qkv = tensor("qkv", (tokens, heads, a.head_dim), a.dtype)
        self.positions = tensor("position_map", (tokens,), "int32", T.int32())
        self.q = tensor("q", (tokens, a.num_attention_heads, a.head_dim), a.dtype)
        self.k = tensor("k", (tokens, a.num_key_value_heads, a.head_dim), a.dtype)
        self.v = tensor("v", (tokens, a.num_key_value_heads, a.head_dim), a.dtype)
        self.apply_rope = T.arg("apply_rope", T.int64())
        self.frequencies = T.alloc_buffer((self.half,), "float32")
        for i, frequency in enumerate(frequencies):
            T.buffer_store(self.frequencies, T.float32(float(frequency)), [i])

    def split_token(self, token: Expr) -> None:
        a = self.a
        angles = self._angles(token)
        self._rotate(token, 0, a.num_attention_heads, self.q, angles)
        self._rotate(token, a.num_attention_heads, a.num_key_value_heads, self.k, angles)
        with T.serial(0, a.num_key_value_heads) as head:
            for i in range(0, a.head_dim, a.lanes):
                from_head = head + a.num_attention_heads + a.num_key_value_heads
                store(self.v, load(self.qkv, [token, from_head, i], a.lanes), [token, head, i])

    def _angles(self, token: Expr) -> Buffer:
        """Sines and cosines of a token's angles: fp32 ``[2, head_dim / 2]``."""
        lanes = self.a.lanes
        angles = T.alloc_buffer((2, self.half), "float32")
        position = T.bind(T.if_then_else(self.apply_rope > 0, cast("float32", self.positions[token]), T.float32(0)))
        for i in range(0, self.half, lanes):
            sine, cosine = sin_cos(T.bind(splat(position, lanes) * load(self.frequencies, [i], lanes)))
            store(angles, sine, [0, i])
            store(angles, cosine, [1, i])
        return angles

    def _rotate(self, token: Expr, first: int, count: int, to: Buffer, angles: Buffer) -> None:
        lanes, dtype, half = self.a.lanes, self.a.dtype, self.half
        with T.serial(0, count) as head:
            for i in range(0, half, lanes):
                sine, cosine = (T.bind(load(angles, [kind, i], lanes)) for kind in range(2))
                low = T.bind(cast("float32", load(self.qkv, [token, head + first, i], lanes)))
                high = T.bind(cast("float32", load(self.qkv, [token, head + first, i + half], lanes)))
                store(to, cast(dtype, low * cosine - high * sine), [token, head, i])
                store(to, cast(dtype, high * cosine + low * sine), [token, head, i + half])


def merge(a: Attention) -> tirx.PrimFunc:
    """Merge attentions of the same queries to different keys into the first of the two, in place."""
    lanes = a.lanes

    with kernel_body(PLAIN_LOOPS, name="main") as ib:
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
    return ib.get()
