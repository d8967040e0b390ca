"""Attention of one query a sequence."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script import tirx as T

from edge_transact.compiler.cpu.attention.heads import PAGE_SIZE, Attention
from edge_transact.compiler.cpu.attention.parts import (
    MASKED,
    function,
    outputs,
    paged,
    scalars,
    softmax,
    store_output,
    tensor,
)
from edge_transact.compiler.vector import LINE_BYTES, cast, load, prefetch, splat, store, sum_lanes

AHEAD_PAGES = 2
"""How far ahead decode asks for keys."""


def decode(a: Attention, threads: int) -> tirx.PrimFunc:
    """One query ``[batch, heads, head_dim]`` a sequence to its pages; output, and log-sum-exps ``[batch, heads]``."""
    lanes = a.lanes

    def body() -> None:
        batch = T.int32()
        q = tensor("q", (batch, a.num_attention_heads, a.head_dim), a.dtype)
        pages, indptr, values, last_page, nnz = paged(a, batch)
        tensor("k_rope_pos_offset", (batch,), "int32", offset=True)
        tensor("q_rope_position", (batch,), "int32", offset=True)
        output, lse = outputs(a, batch)
        *_, scale = scalars("rotary_mode", "rope_scale", "rope_theta", "sm_scale")
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
            softmaxes = [softmax(a, scores, [r], count * (PAGE_SIZE // lanes)) for r in range(a.together)]
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
            store_output(a, output, lse, task // blocks, task % blocks * a.together + r, vectors, maximum, total)

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

    return function(body)
