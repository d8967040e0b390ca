"""Attention of many queries, to keys that lie side by side (ragged) or in pages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script import tirx as T

from edge_transact.compiler.cpu.attention.heads import PAGE_SIZE, Attention
from edge_transact.compiler.cpu.attention.parts import MASKED, function, outputs, paged, scalars, softmax, tensor
from edge_transact.compiler.vector import cast, load, shuffle, splat, store

ALL_KEYS = 1 << 30
"""More than any sequence has."""

TILE_QUERIES = 6
"""Queries of a tile: with two vectors of keys they fill 12 registers."""


def _prefill(
    a: Attention,
    q: Any,
    output: Any,
    lse: Any,
    scale: Any,
    sequence: tuple[Any, Any, Any, Any],
    causal: Any,
    read: Callable[[Any, Any, int, int], Any],
) -> None:
    """Attention of one sequence's queries to its keys.

    Args:
        sequence: First query, queries, keys, and position of the first query among the keys.
        read: Of a key, a KV head, 0 or 1 for keys or values, and a dim: `lanes` numbers from there on.
    """
    lanes, rows, d = a.lanes, TILE_QUERIES, a.head_dim
    first, queries, keys, offset = sequence
    blocks = T.bind((keys + 2 * lanes - 1) // (2 * lanes))
    tiles = T.bind((queries + rows - 1) // rows)
    # A KV head's queries in a few parts, so that all threads have work; each packs the head's keys and values itself.
    parts = 4
    factor = T.bind(scale * T.float32(math.log2(math.e)))
    zero = splat(T.float32(0), lanes)
    # A sum, since TVM takes ten times as long over a kernel in which every row has a condition of its own.
    later = T.bind((1 - T.min(causal, 1)) * ALL_KEYS)
    with T.parallel(0, a.num_key_value_heads * parts) as task:
        kv_head, part = T.bind(task // parts), T.bind(task % parts)
        first_tile, last_tile = T.bind(part * tiles // parts), T.bind((part + 1) * tiles // parts)

        def seen(query: Any) -> Any:
            """Keys that queries before `query` see."""
            return T.max(T.min(keys, offset + query + later), 0)

        used = T.bind(seen(T.min(last_tile * rows, queries)))
        # Keys turned: two vectors of keys for each dim. Values in fp32.
        turned = T.alloc_buffer((blocks, d, 2 * lanes), "float32")
        value = T.alloc_buffer((blocks * 2 * lanes, d), "float32")
        with T.If(last_tile > first_tile), T.Then():
            with T.serial(0, (used + 2 * lanes - 1) // (2 * lanes)) as block:
                with T.serial(0, 2 * lanes) as lane:
                    # Keys beyond the last are the last again: their scores are masked.
                    key = T.bind(T.min(block * (2 * lanes) + lane, keys - 1))
                    with T.serial(0, a.vectors) as i:
                        vector = T.bind(cast("float32", read(key, kv_head, 0, i * lanes)))
                        for j in range(lanes):
                            T.buffer_store(turned, shuffle([vector], [j]), [block, i * lanes + j, lane])
                        store(
                            value,
                            cast("float32", read(key, kv_head, 1, i * lanes)),
                            [block * (2 * lanes) + lane, i * lanes],
                        )
        scores = T.alloc_buffer((rows, blocks * 2 * lanes), "float32")
        query = T.alloc_buffer((d, rows), "float32")
        sums = T.alloc_buffer((rows, 2, lanes), "float32", scope="local")
        out = T.alloc_buffer((rows, 2, lanes), "float32", scope="local")
        maxima = T.alloc_buffer((rows,), "float32")
        totals = T.alloc_buffer((rows,), "float32")
        each = [(r, v) for r in range(rows) for v in range(2)]
        with T.serial(first_tile, last_tile) as tile, T.serial(0, a.q_per_kv) as in_group:
            head = T.bind(kv_head * a.q_per_kv + in_group)
            visible = T.bind(seen(T.min((tile + 1) * rows, queries)))
            with T.serial(0, rows) as r:
                row = T.bind(first + T.min(tile * rows + r, queries - 1))
                with T.serial(0, d) as i:
                    T.buffer_store(query, cast("float32", q[row, head, i]) * factor, [i, r])
            vectors = T.bind((visible + 2 * lanes - 1) // (2 * lanes) * 2)
            with T.serial(0, vectors // 2) as block:
                for r, v in each:
                    store(sums, zero, [r, v, 0])
                with T.serial(0, d) as i:
                    key = [T.bind(load(turned, [block, i, v * lanes], lanes)) for v in range(2)]
                    for r in range(rows):
                        number = T.bind(splat(query[i, r], lanes))
                        for v in range(2):
                            store(sums, load(sums, [r, v, 0], lanes) + key[v] * number, [r, v, 0])
                for r, v in each:
                    column = block * (2 * lanes) + v * lanes
                    limit = T.bind(seen(tile * rows + r + 1))
                    score = T.Select(
                        T.ramp(column, 1, lanes) < splat(limit, lanes),
                        load(sums, [r, v, 0], lanes),
                        splat(T.float32(MASKED), lanes),
                    )
                    store(scores, score, [r, column])
            with T.serial(0, rows) as r:
                maximum, total = softmax(a, scores, [r], vectors)
                T.buffer_store(maxima, maximum, [r])
                T.buffer_store(totals, total, [r])
            with T.serial(0, d // (2 * lanes)) as part_of_head:
                for r, v in each:
                    store(out, zero, [r, v, 0])
                with T.serial(0, visible) as key:
                    values = [
                        T.bind(load(value, [key, part_of_head * (2 * lanes) + v * lanes], lanes)) for v in range(2)
                    ]
                    for r in range(rows):
                        p = T.bind(splat(scores[r, key], lanes))
                        for v in range(2):
                            store(out, load(out, [r, v, 0], lanes) + values[v] * p, [r, v, 0])
                for r in range(rows):
                    with T.If(tile * rows + r < queries), T.Then():
                        row = T.bind(first + tile * rows + r)
                        inverse = T.bind(T.float32(1) / T.max(totals[r], T.float32(1e-30)))
                        for v in range(2):
                            store(
                                output,
                                cast(a.dtype, load(out, [r, v, 0], lanes) * splat(inverse, lanes)),
                                [row, head, part_of_head * (2 * lanes) + v * lanes],
                            )
            for r in range(rows):
                with T.If(tile * rows + r < queries), T.Then():
                    T.buffer_store(
                        lse,
                        maxima[r] + T.log2(T.max(totals[r], T.float32(1))),
                        [first + tile * rows + r, head],
                    )


def prefill_ragged(a: Attention) -> tirx.PrimFunc:
    """Queries ``[rows, heads, head_dim]`` to keys and values ``[rows, kv_heads, head_dim]`` of the same sequences."""

    def body() -> None:
        batch, q_rows, kv_rows = T.int32(), T.int32(), T.int32()
        q = tensor("q", (q_rows, a.num_attention_heads, a.head_dim), a.dtype)
        q_indptr = tensor("q_indptr", (batch + 1,), "int32", offset=True)
        kv = [tensor(name, (kv_rows, a.num_key_value_heads, a.head_dim), a.dtype) for name in ("k", "v")]
        kv_indptr = tensor("kv_indptr", (batch + 1,), "int32", offset=True)
        tensor("q_rope_position", (q_rows,), "int32", offset=True)
        tensor("k_rope_pos_offset", (batch,), "int32", offset=True)
        output, lse = outputs(a, q_rows)
        causal, *_, scale = scalars("causal", "rotary_mode", "rope_scale", "rope_theta", "sm_scale")
        with T.serial(0, batch) as b:
            first, queries = T.bind(q_indptr[b]), T.bind(q_indptr[b + 1] - q_indptr[b])
            first_key, keys = T.bind(kv_indptr[b]), T.bind(kv_indptr[b + 1] - kv_indptr[b])

            def read(key: Any, head: Any, kind: int, i: Any) -> Any:
                return load(kv[kind], [first_key + key, head, i], a.lanes)

            _prefill(a, q, output, lse, scale, (first, queries, keys, T.bind(keys - queries)), causal, read)

    return function(body)


def prefill_paged(a: Attention) -> tirx.PrimFunc:
    """Queries ``[rows, heads, head_dim]`` to what the pages of their sequences hold."""

    def body() -> None:
        batch, q_rows = T.int32(), T.int32()
        q = tensor("q", (q_rows, a.num_attention_heads, a.head_dim), a.dtype)
        q_indptr = tensor("q_indptr", (batch + 1,), "int32", offset=True)
        pages, indptr, values, last_page, _ = paged(a, batch)
        tensor("k_rope_pos_offset", (batch,), "int32", offset=True)
        tensor("q_rope_position", (q_rows,), "int32", offset=True)
        output, lse = outputs(a, q_rows)
        causal, *_, scale = scalars("causal", "rotary_mode", "rope_scale", "rope_theta", "sm_scale")
        with T.serial(0, batch) as b:
            first, queries = T.bind(q_indptr[b]), T.bind(q_indptr[b + 1] - q_indptr[b])
            first_page, count = T.bind(indptr[b]), T.bind(indptr[b + 1] - indptr[b])
            keys = T.bind(T.if_then_else(count > 0, (count - 1) * PAGE_SIZE + last_page[b], 0))

            def read(key: Any, head: Any, kind: int, i: Any) -> Any:
                page = values[first_page + key // PAGE_SIZE]
                return load(pages, [page, kind, head, key % PAGE_SIZE, i], a.lanes)

            _prefill(a, q, output, lse, scale, (first, queries, keys, T.bind(keys - queries)), causal, read)

    return function(body)
