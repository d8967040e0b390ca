"""Queries, keys and values of heads that lost dims: rotated, and padded with zeros to the KV cache's head dim."""

from __future__ import annotations

from collections.abc import Sequence

from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.gpu.source import call
from edge_transact.compiler.matmul import CacheHeads
from edge_transact.compiler.vector import Index, cast, tensor


class RotatedHeads:
    """The heads of a virtual KV layer, as ``EdgeLlamaAttention._rotated`` of the definition computes them.

    A column of the result is a pair of dims ``(i, i + d / 2)`` of a head with d dims. All heads have as many pairs as
    the larger head dim. Arguments: ``rotation [2, tokens, pairs before pruning]``, ``pairs [num_key_value_heads of
    the layer, pairs]``, and int64 ``qk_head_dim``, ``v_head_dim`` and ``layer``, the virtual layer's number within its
    layer. A thread computes `lanes` neighbouring columns, which divide the halves of all heads.
    """

    def __init__(self, heads: CacheHeads, bias: Buffer | None, lanes: int) -> None:
        self.shared, self.bias, self.lanes = heads, bias, lanes
        self.rotating = heads.num_attention_heads + heads.num_key_value_heads
        tokens, before, layer_heads, kept = (T.int64() for _ in range(4))
        self.rotation = tensor("rotation", (2, tokens, before), "float32")
        self.pairs = tensor("pairs", (layer_heads, kept), "int32")
        self._arguments = [T.arg(name, T.int64()) for name in ("qk_head_dim", "v_head_dim", "layer")]

    @staticmethod
    def shape(heads: CacheHeads, leading: Sequence[Index]) -> tuple[Index, ...]:
        return (*leading, heads.num_attention_heads + 2 * heads.num_key_value_heads, heads.head_dim)

    def bind(self) -> Expr:
        """Bind the sizes, after all arguments; returns the columns of the result."""
        self.qk_head_dim, self.v_head_dim, self.layer = (T.bind(cast("int32", size)) for size in self._arguments)
        self.head_pairs = T.bind((T.max(self.qk_head_dim, self.v_head_dim) + 1) // 2)
        return T.bind((self.rotating + self.shared.num_key_value_heads) * self.head_pairs)

    def _pair(self, column: Expr) -> tuple[Expr, Expr, Expr, Expr]:
        """Head, pair, half of the head's dims and all of them."""
        head = call("int32", "quotient", column, self.head_pairs)
        dims = T.bind(T.Select(head < self.rotating, self.qk_head_dim, self.v_head_dim))
        return head, T.bind(column - head * self.head_pairs), T.bind((dims + 1) // 2), dims

    def columns(self, column: Expr, lanes: int | None = None) -> list[Expr]:
        """The weight's first columns for `lanes` neighbouring pairs, clamped to the head's last ones."""
        lanes = lanes or self.lanes
        head, pair, half, dims = self._pair(column)
        size = self.rotating * self.qk_head_dim + self.shared.num_key_value_heads * self.v_head_dim
        of_values = self.rotating * self.qk_head_dim + (head - self.rotating) * self.v_head_dim
        first = T.bind(self.layer * size + T.Select(head < self.rotating, head * self.qk_head_dim, of_values))
        inside = T.min(pair, half - lanes), T.min(pair + half, dims - lanes)
        return [T.bind(first + dim) for dim in inside]

    def store(self, out: Buffer, row: Expr, column: Expr, sums: Sequence[Expr]) -> None:
        """Emit bias, rotation, and the stores of a pair and its share of the head's zeros."""
        dtype, heads = str(out.dtype), self.shared
        head, pair, half, dims = self._pair(column)
        if self.bias is not None:
            sums = [y + cast("float32", self.bias[i]) for y, i in zip(sums, self.columns(column, 1), strict=True)]
        low, high = (T.bind(y) for y in sums)
        cos_sin = T.alloc_buffer((2,), "float32", scope="local")
        T.buffer_store(cos_sin, T.float32(1), [0])
        T.buffer_store(cos_sin, T.float32(0), [1])
        with T.If(head < self.rotating), T.Then():
            of_query = head // (heads.num_attention_heads // heads.num_key_value_heads)
            kv_head = T.Select(head < heads.num_attention_heads, of_query, head - heads.num_attention_heads)
            kv_head = self.layer * heads.num_key_value_heads + kv_head
            before = T.bind(self.pairs[kv_head, T.min(pair, half - 1)])
            for i in range(2):
                T.buffer_store(cos_sin, self.rotation[i, row, before], [i])
        start = T.bind((row * (self.rotating + heads.num_key_value_heads) + head) * heads.head_dim)

        def put(dim: Expr, value: Expr) -> None:
            T.buffer_store(out, cast(dtype, value), [0, 0, 0, start + dim])

        with T.If(pair < half), T.Then():
            put(pair, low * cos_sin[0] - high * cos_sin[1])
        with T.If(pair + half < dims), T.Then():
            put(pair + half, high * cos_sin[0] + low * cos_sin[1])
        first = T.bind(dims + pair)
        missing = T.max(0, heads.head_dim - first + self.head_pairs - 1)
        with T.serial(0, call("int32", "quotient", missing, self.head_pairs)) as turn:
            put(first + turn * self.head_pairs, T.float32(0))
