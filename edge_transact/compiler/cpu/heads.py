"""Kernels that rotate and pad heads that lost dims for the KV cache, and that remove the padding."""

from __future__ import annotations

from tvm.script import tirx as T
from tvm.tirx import Expr, PrimFunc

from edge_transact.compiler.heads import OPAQUE, PaddingArguments, RopeArguments
from edge_transact.compiler.lowering import PLAIN_LOOPS
from edge_transact.compiler.matmul import CacheHeads
from edge_transact.compiler.vector import cast, kernel_body, load, store

LANES = (8, 4, 1)
"""RoPE pairs that are rotated together: eight, then four or one of the remaining ones."""


def rope(cache_heads: CacheHeads, dtype: str, *, pairs: bool) -> PrimFunc:
    """A kernel of `RopeArguments` that rotates and pads heads, as the definition's ``EdgeLlamaAttention._rotated``."""
    h_q, h_kv = cache_heads.num_attention_heads, cache_heads.num_key_value_heads
    with kernel_body(PLAIN_LOOPS | OPAQUE) as ib:
        heads = _Heads(cache_heads, dtype, pairs=pairs)
        with T.serial(0, heads.tokens) as token:
            with T.serial(0, h_kv) as kv_head:
                heads.load_turn(token, kv_head)
                # Its query heads, and then its key: one loop, so that the code for a head is there once.
                with T.serial(0, h_q // h_kv + 1) as i:
                    query = kv_head * (h_q // h_kv) + i
                    heads.rotate(token, T.bind(T.if_then_else(i < h_q // h_kv, query, h_q + kv_head)))
            with T.serial(0, h_kv) as kv_head:
                heads.copy_value(token, kv_head)
    return ib.get()


def without_padding(dtype: str) -> PrimFunc:
    """A kernel of `PaddingArguments` that removes the padding of heads."""
    with kernel_body(PLAIN_LOOPS | OPAQUE) as ib:
        a = PaddingArguments(dtype)
        # A block, because TVM checks whether functions of one tensor only reshape it.
        with T.sblock("root"), T.serial(0, a.tokens * a.heads) as head, T.serial(0, a.d_v) as k:
            T.buffer_store(a.out, a.x[0, 0, 0, head * a.head_dim + k], [0, 0, head * a.d_v + k])
    return ib.get()


class _Heads(RopeArguments):
    """The work of `rope` on one head. Heads are counted as in the result: queries, keys, values."""

    def __init__(self, cache_heads: CacheHeads, dtype: str, *, pairs: bool) -> None:
        super().__init__(cache_heads, dtype, pairs=pairs)
        self.h_q, self.h_kv = cache_heads.num_attention_heads, cache_heads.num_key_value_heads
        self.head_dim, self.dtype = cache_heads.head_dim, dtype
        self.half = T.bind(self.qk // 2)
        self.turn = T.alloc_buffer((2, self.head_dim // 2), "float32")

    def load_turn(self, token: Expr, kv_head: Expr) -> None:
        """Collect the cosines and sines of the pairs that a KV head kept."""
        if self.pairs is not None:
            with T.serial(0, self.half) as k:
                pair = T.bind(self.pairs[self.layer * self.h_kv + kv_head, k])
                for kind in range(2):
                    T.buffer_store(self.turn, self.rotation[kind, token, pair], [kind, k])

    def rotate(self, token: Expr, head: Expr) -> None:
        """Rotate a query or key head with the cosines and sines that `load_turn` collected, and pad it."""
        source = T.bind(self._source(token) + head * self.qk)
        done = T.int32(0)
        for lanes in LANES:
            with T.serial(done // lanes, self.half // lanes) as i:
                self._rotate_pairs(token, head, source, T.bind(i * lanes), lanes)
            done = T.bind(self.half // lanes * lanes)
        self._fill(token, head, self.qk)

    def copy_value(self, token: Expr, kv_head: Expr) -> None:
        source = T.bind(self._source(token) + (self.h_q + self.h_kv) * self.qk + kv_head * self.d_v)
        head = self.h_q + self.h_kv + kv_head
        with T.serial(0, self.d_v) as k:
            T.buffer_store(self.out, self.qkv[0, 0, source + k], [token, head, k])
        self._fill(token, head, self.d_v)

    def _source(self, token: Expr) -> Expr:
        """The index in ``qkv`` of a token's first head in the virtual layer."""
        return token * self.rows + self.layer * ((self.h_q + self.h_kv) * self.qk + self.h_kv * self.d_v)

    def _rotate_pairs(self, token: Expr, head: Expr, source: Expr, k: Expr, lanes: int) -> None:
        cosine, sine = (
            T.bind(
                load(self.rotation, [kind, token, k], lanes)
                if self.pairs is None
                else load(self.turn, [kind, k], lanes)
            )
            for kind in range(2)
        )
        low, high = (T.bind(cast("float32", load(self.qkv, [0, 0, source + i], lanes))) for i in (k, k + self.half))
        store(self.out, cast(self.dtype, low * cosine - high * sine), [token, head, k])
        store(self.out, cast(self.dtype, high * cosine + low * sine), [token, head, k + self.half])

    def _fill(self, token: Expr, head: Expr, width: Expr) -> None:
        with T.serial(width, self.head_dim) as k:
            T.buffer_store(self.out, T.Cast(self.dtype, T.float32(0)), [token, head, k])
