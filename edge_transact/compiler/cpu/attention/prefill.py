"""Attention with many queries per sequence: bound by arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.cpu.attention.parts import (
    MASKED,
    PAGE_SIZE,
    Attention,
    PagedCache,
    denominator_inverse,
    outputs,
    scalars,
    softmax,
)
from edge_transact.compiler.lowering import PLAIN_LOOPS
from edge_transact.compiler.vector import Index, cast, kernel_body, load, shuffle, splat, store, tensor

ALL_KEYS = 1 << 30
"""More keys than any sequence has."""

TILE_QUERIES = 6
"""Queries of a tile: with two vectors of keys they fill 12 registers."""

PARTS = 4
"""Parts of a KV head's queries, so that all threads have work; each packs the head's keys and values itself."""


@dataclass(frozen=True)
class _Sequence:
    """One sequence: its first query's row, its queries and keys, and `load(key, kv_head, 0 or 1 for values, dim)`."""

    first: Expr
    queries: Expr
    keys: Expr
    load: Callable[[Expr, Expr, int, Expr], Expr]


class _Prefill:
    """The arguments that paged and ragged kernels share; `q` is ``[rows, heads, head_dim]``."""

    def __init__(self, a: Attention, q: Buffer, rows: Expr) -> None:
        self.a, self.q = a, q
        self.output, self.lse = outputs(a, rows)
        self.causal, *_, self.scale = scalars("causal", "rotary_mode", "rope_scale", "rope_theta", "sm_scale")

    def attend(self, sequence: _Sequence) -> None:
        a, lanes = self.a, self.a.lanes
        offset = T.bind(sequence.keys - sequence.queries)
        blocks = T.bind((sequence.keys + 2 * lanes - 1) // (2 * lanes))
        tiles = T.bind((sequence.queries + TILE_QUERIES - 1) // TILE_QUERIES)
        factor = T.bind(self.scale * T.float32(math.log2(math.e)))
        # A term of a sum: TVM takes ten times as long to compile a condition in every row.
        later = T.bind((1 - T.min(self.causal, 1)) * ALL_KEYS)
        with T.parallel(0, a.num_key_value_heads * PARTS) as task:
            kv_head, part = T.bind(task // PARTS), T.bind(task % PARTS)
            first_tile, last_tile = T.bind(part * tiles // PARTS), T.bind((part + 1) * tiles // PARTS)
            packed = _PackedKeys(a, sequence, kv_head, blocks, offset, later)
            packed.pack(last_tile > first_tile, T.min(last_tile * TILE_QUERIES, sequence.queries))
            tile = _Tile(self, sequence, packed, factor)
            with T.serial(first_tile, last_tile) as number, T.serial(0, a.q_per_kv) as in_group:
                tile.attend(number, T.bind(kv_head * a.q_per_kv + in_group))


class _PackedKeys:
    """A KV head's keys, in transposed blocks of two vectors, and values in fp32; queries see `later` further keys."""

    def __init__(
        self, a: Attention, sequence: _Sequence, kv_head: Expr, blocks: Expr, offset: Expr, later: Expr
    ) -> None:
        self.a, self.sequence, self.kv_head, self.blocks = a, sequence, kv_head, blocks
        self.offset, self.later = offset, later

    def visible(self, query: Expr) -> Expr:
        """How many keys the queries before `query` see."""
        return T.max(T.min(self.sequence.keys, self.offset + query + self.later), 0)

    def pack(self, condition: Expr, queries: Expr) -> None:
        """On a condition, pack the keys and values that the queries before `queries` see."""
        lanes, sequence = self.a.lanes, self.sequence
        used = T.bind(self.visible(queries))
        self.keys = T.alloc_buffer((self.blocks, self.a.head_dim, 2 * lanes), "float32")
        self.values = T.alloc_buffer((self.blocks * 2 * lanes, self.a.head_dim), "float32")
        with T.If(condition), T.Then():
            with T.serial(0, (used + 2 * lanes - 1) // (2 * lanes)) as block:
                with T.serial(0, 2 * lanes) as lane:
                    # The block is filled up with the last key, whose scores are masked.
                    key = T.bind(T.min(block * (2 * lanes) + lane, sequence.keys - 1))
                    with T.serial(0, self.a.vectors) as i:
                        vector = T.bind(cast("float32", sequence.load(key, self.kv_head, 0, i * lanes)))
                        for j in range(lanes):
                            T.buffer_store(self.keys, shuffle([vector], [j]), [block, i * lanes + j, lane])
                        value = cast("float32", sequence.load(key, self.kv_head, 1, i * lanes))
                        store(self.values, value, [block * (2 * lanes) + lane, i * lanes])


class _Tile:
    """A tile of queries of one head; `factor` is the softmax scale in units of log2."""

    def __init__(self, of: _Prefill, sequence: _Sequence, packed: _PackedKeys, factor: Expr) -> None:
        self.of, self.a, self.sequence, self.packed, self.factor = of, of.a, sequence, packed, factor
        accumulators = (TILE_QUERIES, 2, of.a.lanes)
        self.scores = T.alloc_buffer((TILE_QUERIES, packed.blocks * 2 * of.a.lanes), "float32")
        self.query = T.alloc_buffer((of.a.head_dim, TILE_QUERIES), "float32")
        self.score_sums = T.alloc_buffer(accumulators, "float32")
        self.value_sums = T.alloc_buffer(accumulators, "float32")
        self.maxima = T.alloc_buffer((TILE_QUERIES,), "float32")
        self.totals = T.alloc_buffer((TILE_QUERIES,), "float32")
        self.each = [(r, v) for r in range(TILE_QUERIES) for v in range(2)]

    def attend(self, tile: Expr, head: Expr) -> None:
        lanes = self.a.lanes
        visible = T.bind(self.packed.visible(T.min((tile + 1) * TILE_QUERIES, self.sequence.queries)))
        self._load_queries(tile, head)
        vectors = T.bind((visible + 2 * lanes - 1) // (2 * lanes) * 2)
        with T.serial(0, vectors // 2) as block:
            self._multiply_keys(block)
            self._mask_scores(tile, block)
        with T.serial(0, TILE_QUERIES) as r:
            maximum, total = softmax(self.a, self.scores, [r], vectors)
            T.buffer_store(self.maxima, maximum, [r])
            T.buffer_store(self.totals, total, [r])
        with T.serial(0, self.a.head_dim // (2 * lanes)) as pair:
            self._weigh_values(visible, pair)
            self._store_output(tile, head, pair)
        self._store_lse(tile, head)

    def _load_queries(self, tile: Expr, head: Expr) -> None:
        with T.serial(0, TILE_QUERIES) as r:
            row = T.bind(self.sequence.first + T.min(tile * TILE_QUERIES + r, self.sequence.queries - 1))
            with T.serial(0, self.a.head_dim) as i:
                T.buffer_store(self.query, cast("float32", self.of.q[row, head, i]) * self.factor, [i, r])

    def _multiply_keys(self, block: Expr) -> None:
        lanes, sums = self.a.lanes, self.score_sums
        self._clear(sums)
        with T.serial(0, self.a.head_dim) as i:
            keys = [T.bind(load(self.packed.keys, [block, i, v * lanes], lanes)) for v in range(2)]
            for r in range(TILE_QUERIES):
                number = T.bind(splat(self.query[i, r], lanes))
                for v in range(2):
                    store(sums, load(sums, [r, v, 0], lanes) + keys[v] * number, [r, v, 0])

    def _mask_scores(self, tile: Expr, block: Expr) -> None:
        """Store the scores of a block of keys, masked where the query does not see the key."""
        lanes = self.a.lanes
        for r, v in self.each:
            column = block * (2 * lanes) + v * lanes
            limit = T.bind(self.packed.visible(tile * TILE_QUERIES + r + 1))
            seen = T.ramp(column, 1, lanes) < splat(limit, lanes)
            score = T.Select(seen, load(self.score_sums, [r, v, 0], lanes), splat(T.float32(MASKED), lanes))
            store(self.scores, score, [r, column])

    def _weigh_values(self, visible: Expr, pair: Expr) -> None:
        lanes, sums = self.a.lanes, self.value_sums
        self._clear(sums)
        with T.serial(0, visible) as key:
            values = [T.bind(load(self.packed.values, [key, pair * (2 * lanes) + v * lanes], lanes)) for v in range(2)]
            for r in range(TILE_QUERIES):
                p = T.bind(splat(self.scores[r, key], lanes))
                for v in range(2):
                    store(sums, load(sums, [r, v, 0], lanes) + values[v] * p, [r, v, 0])

    def _store_output(self, tile: Expr, head: Expr, pair: Expr) -> None:
        a, lanes = self.a, self.a.lanes
        for r in range(TILE_QUERIES):
            with T.If(tile * TILE_QUERIES + r < self.sequence.queries), T.Then():
                row = T.bind(self.sequence.first + tile * TILE_QUERIES + r)
                inverse = denominator_inverse(self.totals[r])
                for v in range(2):
                    output = cast(a.dtype, load(self.value_sums, [r, v, 0], lanes) * splat(inverse, lanes))
                    store(self.of.output, output, [row, head, pair * (2 * lanes) + v * lanes])

    def _store_lse(self, tile: Expr, head: Expr) -> None:
        for r in range(TILE_QUERIES):
            with T.If(tile * TILE_QUERIES + r < self.sequence.queries), T.Then():
                lse = self.maxima[r] + T.log2(T.max(self.totals[r], T.float32(1)))
                T.buffer_store(self.of.lse, lse, [self.sequence.first + tile * TILE_QUERIES + r, head])

    def _clear(self, sums: Buffer) -> None:
        for r, v in self.each:
            store(sums, splat(T.float32(0), self.a.lanes), [r, v, 0])


def prefill_ragged(a: Attention) -> tirx.PrimFunc:
    """Attention of ``[rows, heads, head_dim]`` to ``[rows, kv_heads, head_dim]`` of the same sequences."""
    with kernel_body(PLAIN_LOOPS, name="main") as ib:
        batch, q_rows, kv_rows = T.int32(), T.int32(), T.int32()
        q = tensor("q", (q_rows, a.num_attention_heads, a.head_dim), a.dtype)
        q_indptr = tensor("q_indptr", (batch + 1,), "int32", T.int32())
        kv = [tensor(name, (kv_rows, a.num_key_value_heads, a.head_dim), a.dtype) for name in ("k", "v")]
        kv_indptr = tensor("kv_indptr", (batch + 1,), "int32", T.int32())
        tensor("q_rope_position", (q_rows,), "int32", T.int32())
        tensor("k_rope_pos_offset", (batch,), "int32", T.int32())
        kernel = _Prefill(a, q, q_rows)
        with T.serial(0, batch) as b:
            first, queries = T.bind(q_indptr[b]), T.bind(q_indptr[b + 1] - q_indptr[b])
            first_key, keys = T.bind(kv_indptr[b]), T.bind(kv_indptr[b + 1] - kv_indptr[b])

            def read(key: Expr, head: Expr, kind: int, i: Index) -> Expr:
                return load(kv[kind], [first_key + key, head, i], a.lanes)

            kernel.attend(_Sequence(first, queries, keys, read))
    return ib.get()


def prefill_paged(a: Attention) -> tirx.PrimFunc:
    """Attention of ``[rows, heads, head_dim]`` to the pages of their sequences."""
    with kernel_body(PLAIN_LOOPS, name="main") as ib:
        batch, q_rows = T.int32(), T.int32()
        q = tensor("q", (q_rows, a.num_attention_heads, a.head_dim), a.dtype)
        q_indptr = tensor("q_indptr", (batch + 1,), "int32", T.int32())
        cache = PagedCache(a, batch)
        tensor("k_rope_pos_offset", (batch,), "int32", T.int32())
        tensor("q_rope_position", (q_rows,), "int32", T.int32())
        kernel = _Prefill(a, q, q_rows)
        with T.serial(0, batch) as b:
            first, queries = T.bind(q_indptr[b]), T.bind(q_indptr[b + 1] - q_indptr[b])
            first_page, count = T.bind(cache.indptr[b]), T.bind(cache.indptr[b + 1] - cache.indptr[b])
            keys = T.bind(T.if_then_else(count > 0, (count - 1) * PAGE_SIZE + cache.last_page[b], 0))

            def read(key: Expr, head: Expr, kind: int, i: Index) -> Expr:
                page = cache.values[first_page + key // PAGE_SIZE]
                return load(cache.pages, [page, kind, head, key % PAGE_SIZE, i], a.lanes)

            kernel.attend(_Sequence(first, queries, keys, read))
    return ib.get()
