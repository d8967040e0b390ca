"""Paged attention on CPUs: the functions that TVM's paged KV cache calls, in vectors of keys or of head dims.

Pages hold 16 tokens, ``[pages, 2, kv_heads, 16, head_dim]``, keys and then values. Scores of a query are kept for all
its keys, so that the softmax takes one pass and the output stays in registers; they are in units of log2, as the
cache's log-sum-exps are.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as builder

from edge_transact.engine.lowering import PLAIN_LOOPS
from edge_transact.engine.vector import (
    LINE_BYTES,
    cast,
    exp,
    load,
    max_lanes,
    prefetch,
    shuffle,
    sin_cos,
    splat,
    store,
    sum_lanes,
)

PAGE_SIZE = 16
"""Tokens of a page."""

AHEAD_PAGES = 2
"""How far ahead decode asks for keys."""

MASKED = -5e4
"""The score of a key that may not be seen, as in TVM's own kernels."""

ALL_KEYS = 1 << 30
"""More than any sequence has."""

TILE_QUERIES = 6
"""Queries of a prefill tile: with two vectors of keys they fill 12 registers."""


@dataclass(frozen=True)
class Attention:
    """The heads of one cache layer.

    Attributes:
        num_attention_heads: Query heads.
        num_key_value_heads: KV heads.
        head_dim: Dims of each.
        dtype: Of queries, cache and output.
        lanes: fp32 numbers in a vector.
    """

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    dtype: str
    lanes: int

    @property
    def q_per_kv(self) -> int:
        """Query heads of a KV head."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def vectors(self) -> int:
        """Vectors of a head."""
        return self.head_dim // self.lanes

    @property
    def together(self) -> int:
        """Query heads of a KV head that decode takes at once: as many as have their outputs in 16 registers."""
        fitting = [n for n in range(1, self.q_per_kv + 1) if self.q_per_kv % n == 0 and n * self.vectors <= 16]
        return max(fitting, default=1)


def kernels(attention: Attention, inverse_frequencies: np.ndarray, threads: int) -> dict[str, tirx.PrimFunc]:
    """The kernels by the names of those of TVM's ``TIRPagedKVCache`` that they replace.

    Args:
        attention: The heads.
        inverse_frequencies: RoPE's, float32 ``[head_dim / 2]``.
        threads: Of the target.
    """
    made = {
        "tir_kv_cache_transpose_append": _append(attention),
        "fused_rope": _split_rotary(attention, inverse_frequencies),
        "batch_decode_paged_kv_cpu": _decode(attention, threads),
        "batch_prefill_paged_kv_cpu": _prefill_paged(attention),
        "batch_prefill_ragged_kv": _prefill_ragged(attention),
        "merge_state_inplace_cpu": _merge(attention),
    }
    return {name: function.with_attr("global_symbol", name) for name, function in made.items()}


def lanes_for(head_dim: int, most: int) -> int | None:
    """Lanes of the widest vectors, up to `most`, pairs of which divide a head; `None` where none do."""
    return next((lanes for lanes in (16, 8, 4) if lanes <= most and head_dim % (2 * lanes) == 0), None)


def inverse_frequencies(head_dim: int, theta: float, scaling: dict[str, Any]) -> np.ndarray:
    """RoPE's inverse frequencies, float32 ``[head_dim / 2]``, with Llama 3's scaling where the configuration has it.

    The formulas are those of transformers' ``modeling_rope_utils.py``.
    """
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling.get("rope_type") == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        share = np.clip((turns - low) / (high - low), 0, 1)
        frequencies = (1 - share) * frequencies / scaling["factor"] + share * frequencies
    return frequencies.astype(np.float32)


def _function(body: Callable[[], None]) -> tirx.PrimFunc:
    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr(PLAIN_LOOPS)
        body()
    return ib.get()


def _tensor(name: str, shape: tuple[Any, ...], dtype: str, *, offset: bool = False) -> Any:
    """An argument; the cache's small index tensors are views with an offset."""
    handle = T.arg(name, T.handle())
    return T.match_buffer(handle, shape, dtype, elem_offset=T.int32() if offset else None)


def _scalars(*names: str) -> list[Any]:
    return [T.arg(name, T.float32() if name != "causal" and name != "rotary_mode" else T.int32()) for name in names]


def _append(a: Attention) -> tirx.PrimFunc:
    def body() -> None:
        tokens, num_pages = T.int32(), T.int32()
        pages_handle = T.arg("pages", T.handle())
        pages = T.match_buffer(
            pages_handle,
            (num_pages, 2, a.num_key_value_heads, PAGE_SIZE, a.head_dim),
            a.dtype,
            elem_offset=T.int64(),
        )
        sources = [_tensor(name, (tokens, a.num_key_value_heads, a.head_dim), a.dtype) for name in ("k", "v")]
        positions = _tensor("position_map", (tokens,), "int32", offset=True)
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

    return _function(body)


def _split_rotary(a: Attention, frequencies: np.ndarray) -> tirx.PrimFunc:
    half, lanes = a.head_dim // 2, a.lanes
    heads = a.num_attention_heads + 2 * a.num_key_value_heads

    def body() -> None:
        tokens = T.int32()
        qkv = _tensor("qkv", (tokens, heads, a.head_dim), a.dtype)
        positions = _tensor("position_map", (tokens,), "int32", offset=True)
        q = _tensor("q", (tokens, a.num_attention_heads, a.head_dim), a.dtype)
        k = _tensor("k", (tokens, a.num_key_value_heads, a.head_dim), a.dtype)
        v = _tensor("v", (tokens, a.num_key_value_heads, a.head_dim), a.dtype)
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

    return _function(body)


def _softmax(a: Attention, scores: Any, row: list[Any], vectors: Any) -> tuple[Any, Any]:
    """Scores (log2) of a row to ``2 ** (score - max)``, in place; their maximum and sum."""
    lanes = a.lanes
    largest = T.alloc_buffer((lanes,), "float32", scope="local")
    total = T.alloc_buffer((lanes,), "float32", scope="local")
    store(largest, splat(T.float32(MASKED), lanes), [0])
    store(total, splat(T.float32(0), lanes), [0])
    with T.serial(0, vectors) as i:
        store(largest, T.max(load(largest, [0], lanes), load(scores, [*row, i * lanes], lanes)), [0])
    maximum = T.bind(max_lanes(T.bind(load(largest, [0], lanes))))
    with T.serial(0, vectors) as i:
        difference = load(scores, [*row, i * lanes], lanes) - splat(maximum, lanes)
        p = T.bind(exp(difference * splat(T.float32(math.log(2)), lanes)))
        store(scores, p, [*row, i * lanes])
        store(total, load(total, [0], lanes) + p, [0])
    return maximum, T.bind(sum_lanes([load(total, [0], lanes)]))


def _decode(a: Attention, threads: int) -> tirx.PrimFunc:
    lanes = a.lanes

    def body() -> None:
        batch, nnz, num_pages = T.int32(), T.int32(), T.int32()
        q = _tensor("q", (batch, a.num_attention_heads, a.head_dim), a.dtype)
        pages = _tensor("pages", (num_pages, 2, a.num_key_value_heads, PAGE_SIZE, a.head_dim), a.dtype)
        indptr = _tensor("page_indptr", (batch + 1,), "int32", offset=True)
        values = _tensor("page_values", (nnz,), "int32", offset=True)
        last_page = _tensor("length_info", (batch,), "int32", offset=True)
        _tensor("k_rope_pos_offset", (batch,), "int32", offset=True)
        _tensor("q_rope_position", (batch,), "int32", offset=True)
        output = _tensor("output", (batch, a.num_attention_heads, a.head_dim), a.dtype)
        lse = _tensor("lse", (batch, a.num_attention_heads), "float32")
        *_, scale = _scalars("rotary_mode", "rope_scale", "rope_theta", "sm_scale")
        blocks = a.num_attention_heads // a.together
        line = LINE_BYTES // np.dtype(a.dtype).itemsize
        # Heads that can't be shared out evenly are cut along their keys.
        parts = 1 if blocks % threads == 0 else threads
        each = [(r, i) for r in range(a.together) for i in range(a.vectors)]

        def attend(task: Any, part: Any) -> tuple[list[tuple[Any, Any]], Any]:
            """Attention of a block of heads to a part of the keys: maxima and sums of scores, and weighted values."""
            b, head = T.bind(task // blocks), T.bind(task % blocks * a.together)
            kv_head = T.bind(head // a.q_per_kv)
            start, pages_of_all = T.bind(indptr[b]), T.bind(indptr[b + 1] - indptr[b])
            before = T.bind(pages_of_all * part // parts)
            first, count = T.bind(start + before), T.bind(pages_of_all * (part + 1) // parts - before)
            length = T.bind((pages_of_all - 1 - before) * PAGE_SIZE + last_page[b])
            # As large as all sequences' pages: TVM moves allocations in front of what is computed inside the loop.
            scores = T.alloc_buffer((a.together, (nnz + 1) * PAGE_SIZE), "float32")
            products = T.alloc_buffer((a.together, lanes, lanes), "float32", scope="local")
            factor = T.bind(scale * T.float32(math.log2(math.e)))
            query = [
                [
                    T.bind(cast("float32", load(q, [b, head + r, i * lanes], lanes)) * splat(factor, lanes))
                    for i in range(a.vectors)
                ]
                for r in range(a.together)
            ]

            def read(page: Any, kind: int, key: Any) -> list[Any]:
                place = [values[first + page], kind, kv_head, key]
                return [T.bind(cast("float32", load(pages, [*place, i], lanes))) for i in range(0, a.head_dim, lanes)]

            with T.serial(0, count) as page:
                later = T.bind(values[first + T.min(page + AHEAD_PAGES, count - 1)])
                for start in range(0, PAGE_SIZE, lanes):
                    with T.serial(0, lanes) as key:
                        # The values are wanted when all scores are known; until then they are on their way.
                        for i in range(0, a.head_dim, line):
                            prefetch(pages, [later, 0, kv_head, start + key, i])
                            prefetch(pages, [values[first + page], 1, kv_head, start + key, i])
                        row = read(page, 0, start + key)
                        for r in range(a.together):
                            product = row[0] * query[r][0]
                            for i in range(1, a.vectors):
                                product = product + row[i] * query[r][i]
                            store(products, product, [r, key, 0])
                    seen = T.ramp(page * PAGE_SIZE + start, 1, lanes) < splat(length, lanes)
                    for r in range(a.together):
                        score = sum_lanes([T.bind(load(products, [r, key, 0], lanes)) for key in range(lanes)])
                        score = T.Select(seen, score, splat(T.float32(MASKED), lanes))
                        store(scores, score, [r, page * PAGE_SIZE + start])
            softmaxes = [_softmax(a, scores, [r], count * (PAGE_SIZE // lanes)) for r in range(a.together)]
            out = T.alloc_buffer((a.together, a.head_dim), "float32", scope="local")
            for r, i in each:
                store(out, splat(T.float32(0), lanes), [r, i * lanes])
            with T.serial(0, count) as page, T.serial(0, T.min(PAGE_SIZE, length - page * PAGE_SIZE)) as key:
                value = read(page, 1, key)
                for r, i in each:
                    p = splat(scores[r, page * PAGE_SIZE + key], lanes)
                    store(out, load(out, [r, i * lanes], lanes) + value[i] * p, [r, i * lanes])
            return softmaxes, out

        def finish(task: Any, r: int, vectors: list[Any], maximum: Any, total: Any) -> None:
            _store_output(a, output, lse, task // blocks, task % blocks * a.together + r, vectors, maximum, total)

        if parts == 1:
            with T.parallel(0, batch * blocks) as task:
                softmaxes, out = attend(task, 0)
                for r, (maximum, total) in enumerate(softmaxes):
                    finish(task, r, [load(out, [r, i * lanes], lanes) for i in range(a.vectors)], maximum, total)
        else:
            states = T.alloc_buffer((parts, batch * blocks, a.together, 2), "float32")
            values_of_parts = T.alloc_buffer((parts, batch * blocks, a.together, a.head_dim), "float32")
            with T.attr(T.int32(0), "pragma_parallel_launch_point", 1):
                with (
                    T.attr(T.int32(0), "pragma_parallel_barrier_when_finish", 1),
                    T.parallel(0, parts) as part,
                    T.serial(0, batch * blocks) as task,
                ):
                    softmaxes, out = attend(task, part)
                    for r, state in enumerate(softmaxes):
                        for i, number in enumerate(state):
                            T.buffer_store(states, number, [part, task, r, i])
                    for r, i in each:
                        store(values_of_parts, load(out, [r, i * lanes], lanes), [part, task, r, i * lanes])
                with T.parallel(0, batch * blocks) as task:
                    for r in range(a.together):
                        maxima = [states[part, task, r, 0] for part in range(parts)]
                        maximum = T.bind(functools.reduce(T.max, maxima))
                        weights = [T.bind(T.exp2(m - maximum)) for m in maxima]
                        total = sum(w * states[part, task, r, 1] for part, w in enumerate(weights))
                        vectors = [
                            sum(
                                splat(w, lanes) * load(values_of_parts, [part, task, r, i * lanes], lanes)
                                for part, w in enumerate(weights)
                            )
                            for i in range(a.vectors)
                        ]
                        finish(task, r, vectors, maximum, T.bind(total))

    return _function(body)


def _store_output(
    a: Attention, output: Any, lse: Any, row: Any, head: Any, sums: list[Any], maximum: Any, total: Any
) -> None:
    """The weighted values over their weights' sum, and the log2 of the sum of all exponentials."""
    # Without keys there is no sum: zeros, with a log-sum-exp that loses in a merge.
    inverse = T.bind(T.float32(1) / T.max(total, T.float32(1e-30)))
    for i, vector in enumerate(sums):
        store(output, cast(a.dtype, vector * splat(inverse, a.lanes)), [row, head, i * a.lanes])
    T.buffer_store(lse, maximum + T.log2(T.max(total, T.float32(1))), [row, head])


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
                maximum, total = _softmax(a, scores, [r], vectors)
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


def _prefill_ragged(a: Attention) -> tirx.PrimFunc:
    def body() -> None:
        batch, q_rows, kv_rows = T.int32(), T.int32(), T.int32()
        q = _tensor("q", (q_rows, a.num_attention_heads, a.head_dim), a.dtype)
        q_indptr = _tensor("q_indptr", (batch + 1,), "int32", offset=True)
        kv = [_tensor(name, (kv_rows, a.num_key_value_heads, a.head_dim), a.dtype) for name in ("k", "v")]
        kv_indptr = _tensor("kv_indptr", (batch + 1,), "int32", offset=True)
        _tensor("q_rope_position", (q_rows,), "int32", offset=True)
        _tensor("k_rope_pos_offset", (batch,), "int32", offset=True)
        output = _tensor("output", (q_rows, a.num_attention_heads, a.head_dim), a.dtype)
        lse = _tensor("lse", (q_rows, a.num_attention_heads), "float32")
        causal, *_, scale = _scalars("causal", "rotary_mode", "rope_scale", "rope_theta", "sm_scale")
        with T.serial(0, batch) as b:
            first, queries = T.bind(q_indptr[b]), T.bind(q_indptr[b + 1] - q_indptr[b])
            first_key, keys = T.bind(kv_indptr[b]), T.bind(kv_indptr[b + 1] - kv_indptr[b])

            def read(key: Any, head: Any, kind: int, i: Any) -> Any:
                return load(kv[kind], [first_key + key, head, i], a.lanes)

            _prefill(a, q, output, lse, scale, (first, queries, keys, T.bind(keys - queries)), causal, read)

    return _function(body)


def _prefill_paged(a: Attention) -> tirx.PrimFunc:
    def body() -> None:
        batch, q_rows, nnz, num_pages = T.int32(), T.int32(), T.int32(), T.int32()
        q = _tensor("q", (q_rows, a.num_attention_heads, a.head_dim), a.dtype)
        q_indptr = _tensor("q_indptr", (batch + 1,), "int32", offset=True)
        pages = _tensor("pages", (num_pages, 2, a.num_key_value_heads, PAGE_SIZE, a.head_dim), a.dtype)
        indptr = _tensor("page_indptr", (batch + 1,), "int32", offset=True)
        values = _tensor("page_values", (nnz,), "int32", offset=True)
        last_page = _tensor("length_info", (batch,), "int32", offset=True)
        _tensor("k_rope_pos_offset", (batch,), "int32", offset=True)
        _tensor("q_rope_position", (q_rows,), "int32", offset=True)
        output = _tensor("output", (q_rows, a.num_attention_heads, a.head_dim), a.dtype)
        lse = _tensor("lse", (q_rows, a.num_attention_heads), "float32")
        causal, *_, scale = _scalars("causal", "rotary_mode", "rope_scale", "rope_theta", "sm_scale")
        with T.serial(0, batch) as b:
            first, queries = T.bind(q_indptr[b]), T.bind(q_indptr[b + 1] - q_indptr[b])
            first_page, count = T.bind(indptr[b]), T.bind(indptr[b + 1] - indptr[b])
            keys = T.bind(T.if_then_else(count > 0, (count - 1) * PAGE_SIZE + last_page[b], 0))

            def read(key: Any, head: Any, kind: int, i: Any) -> Any:
                page = values[first_page + key // PAGE_SIZE]
                return load(pages, [page, kind, head, key % PAGE_SIZE, i], a.lanes)

            _prefill(a, q, output, lse, scale, (first, queries, keys, T.bind(keys - queries)), causal, read)

    return _function(body)


def _merge(a: Attention) -> tirx.PrimFunc:
    """Two attentions of the same queries to different keys, into the first, in place."""
    lanes = a.lanes

    def body() -> None:
        rows, heads, d = T.int32(), T.int32(), T.int32()
        v = _tensor("v", (rows, heads, d), a.dtype)
        s = _tensor("s", (rows, heads), "float32")
        v_other = _tensor("v_other", (rows, heads, d), a.dtype)
        s_other = _tensor("s_other", (rows, heads), "float32")
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

    return _function(body)
