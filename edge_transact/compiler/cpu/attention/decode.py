"""Attention with one query per sequence: bound by memory."""

from __future__ import annotations

import functools
import math

import numpy as np
from tvm import tirx
from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr

from edge_transact.compiler.cpu.attention.parts import (
    MASKED,
    PAGE_SIZE,
    Attention,
    PagedCache,
    outputs,
    scalars,
    softmax,
    store_output,
)
from edge_transact.compiler.lowering import PLAIN_LOOPS
from edge_transact.compiler.vector import (
    LINE_BYTES,
    Index,
    cast,
    kernel_body,
    load,
    prefetch,
    splat,
    store,
    sum_lanes,
    tensor,
)

AHEAD_PAGES = 4
"""How many pages ahead decode prefetches keys, beyond a block's last page those of the next block."""


def decode(a: Attention, threads: int) -> tirx.PrimFunc:
    """Attention of one query per sequence, ``[batch, heads, head_dim]``, to its pages; also log-sum-exps."""
    with kernel_body(PLAIN_LOOPS, name="main") as ib:
        kernel = _Decode(a)
        # Heads that can't be divided evenly among the threads are divided along their keys.
        if kernel.blocks % threads == 0:
            kernel.attend_to_all_keys()
        else:
            kernel.attend_to_parts(threads)
    return ib.get()


class _Decode:
    """The kernel's arguments, and the two ways to divide its `blocks` of query heads among threads."""

    def __init__(self, a: Attention) -> None:
        self.a = a
        self.batch = T.int32()
        self.q = tensor("q", (self.batch, a.num_attention_heads, a.head_dim), a.dtype)
        self.cache = PagedCache(a, self.batch)
        tensor("k_rope_pos_offset", (self.batch,), "int32", T.int32())
        tensor("q_rope_position", (self.batch,), "int32", T.int32())
        self.output, self.lse = outputs(a, self.batch)
        *_, self.scale = scalars("rotary_mode", "rope_scale", "rope_theta", "sm_scale")
        self.blocks = a.num_attention_heads // a.together
        self.each = [(r, i) for r in range(a.together) for i in range(a.vectors)]

    def attend_to_all_keys(self) -> None:
        """One task for each block of heads."""
        a = self.a
        with T.parallel(0, self.batch * self.blocks) as task:
            softmaxes, out = self._attend(task, 0, 1)
            for r, (maximum, total) in enumerate(softmaxes):
                vectors = [load(out, [r, i * a.lanes], a.lanes) for i in range(a.vectors)]
                self._store(task, r, vectors, maximum, total)

    def attend_to_parts(self, parts: int) -> None:
        """One task for each part of the keys; one thread merges the parts, which is faster than another barrier."""
        a, tasks = self.a, self.batch * self.blocks
        # Maximum and denominator of each part's softmax.
        states = T.alloc_buffer((parts, tasks, a.together, 2), "float32")
        values = T.alloc_buffer((parts, tasks, a.together, a.head_dim), "float32")
        with T.parallel(0, parts) as part, T.serial(0, tasks) as task:
            softmaxes, out = self._attend(task, part, parts)
            for r, state in enumerate(softmaxes):
                for i, number in enumerate(state):
                    T.buffer_store(states, number, [part, task, r, i])
            for r, i in self.each:
                store(values, load(out, [r, i * a.lanes], a.lanes), [part, task, r, i * a.lanes])
        with T.serial(0, tasks) as task:
            for r in range(a.together):
                self._merge(task, r, parts, states, values)

    def _attend(self, task: Expr, part: Index, parts: int) -> tuple[list[tuple[Expr, Expr]], Buffer]:
        """Maximum and denominator of each head's softmax, and the values weighted by its numerators."""
        block = _Block(self, task, part, parts)
        block.score_keys()
        count = block.pages * (PAGE_SIZE // self.a.lanes)
        softmaxes = [softmax(self.a, block.scores, [r], count) for r in range(self.a.together)]
        return softmaxes, block.weigh_values()

    def _merge(self, task: Expr, r: int, parts: int, states: Buffer, values: Buffer) -> None:
        lanes = self.a.lanes
        maxima = [states[part, task, r, 0] for part in range(parts)]
        maximum = T.bind(functools.reduce(T.max, maxima))
        weights = [T.bind(T.exp2(m - maximum)) for m in maxima]
        total = sum(weight * states[part, task, r, 1] for part, weight in enumerate(weights))
        vectors = [
            sum(
                splat(weight, lanes) * load(values, [part, task, r, i * lanes], lanes)
                for part, weight in enumerate(weights)
            )
            for i in range(self.a.vectors)
        ]
        self._store(task, r, vectors, maximum, T.bind(total))

    def _store(self, task: Expr, r: int, vectors: list[Expr], maximum: Expr, total: Expr) -> None:
        head = task % self.blocks * self.a.together + r
        store_output(self.a, self.output, self.lse, task // self.blocks, head, vectors, maximum, total)


class _Block:
    """Block `task` of a sequence's query heads that share a KV head, and the part of the keys that they attend to."""

    def __init__(self, of: _Decode, task: Expr, part: Index, parts: int) -> None:
        a, cache = of.a, of.cache
        self.a, self.cache = a, cache
        b, self.number, self.blocks = T.bind(task // of.blocks), T.bind(task % of.blocks), of.blocks
        head = T.bind(self.number * a.together)
        self.kv_head = T.bind(self._kv_head_of(self.number))
        start, all_pages = T.bind(cache.indptr[b]), T.bind(cache.indptr[b + 1] - cache.indptr[b])
        before = T.bind(all_pages * part // parts)
        self.first, self.pages = T.bind(start + before), T.bind(all_pages * (part + 1) // parts - before)
        self.length = T.bind((all_pages - 1 - before) * PAGE_SIZE + cache.last_page[b])
        # Sized for all sequences' pages, because TVM moves allocations out of the loop.
        self.scores = T.alloc_buffer((a.together, (cache.nnz + 1) * PAGE_SIZE), "float32")
        self.products = T.alloc_buffer((a.together, a.lanes, a.lanes), "float32")
        factor = T.bind(of.scale * T.float32(math.log2(math.e)))
        self.query = [
            [
                T.bind(cast("float32", load(of.q, [b, head + r, i * a.lanes], a.lanes)) * splat(factor, a.lanes))
                for i in range(a.vectors)
            ]
            for r in range(a.together)
        ]

    def score_keys(self) -> None:
        a = self.a
        with T.If(self.number == 0), T.Then(), T.serial(0, T.min(AHEAD_PAGES, self.pages)) as page:
            with T.serial(0, PAGE_SIZE) as key:
                self._prefetch(self._page(page), 0, self.kv_head, key)
        with T.serial(0, self.pages) as page:
            this, (later, later_head) = T.bind(self._page(page)), self._later(page)
            for start in range(0, PAGE_SIZE, a.lanes):
                with T.serial(0, a.lanes) as key:
                    self._prefetch(later, 0, later_head, start + key)
                    # Needed once all scores are known, and fetched while these are computed.
                    self._prefetch(this, 1, self.kv_head, start + key)
                    self._multiply(page, start, key)
                visible = T.ramp(page * PAGE_SIZE + start, 1, a.lanes) < splat(self.length, a.lanes)
                for r in range(a.together):
                    products = [T.bind(load(self.products, [r, key, 0], a.lanes)) for key in range(a.lanes)]
                    score = T.Select(visible, sum_lanes(products), splat(T.float32(MASKED), a.lanes))
                    store(self.scores, score, [r, page * PAGE_SIZE + start])

    def weigh_values(self) -> Buffer:
        """The sum of the values times their numerators: fp32 ``[heads, head_dim]``."""
        a = self.a
        each = [(r, i) for r in range(a.together) for i in range(a.vectors)]
        out = T.alloc_buffer((a.together, a.head_dim), "float32")
        for r, i in each:
            store(out, splat(T.float32(0), a.lanes), [r, i * a.lanes])
        for first in range(0, a.vectors, a.vectors_together):
            self._weigh(out, range(first, first + a.vectors_together))
        return out

    def _weigh(self, out: Buffer, vectors: range) -> None:
        a = self.a
        with T.serial(0, self.pages) as page, T.serial(0, T.min(PAGE_SIZE, self.length - page * PAGE_SIZE)) as key:
            value = self._load(page, 1, key, vectors)
            for r in range(a.together):
                p = T.bind(splat(self.scores[r, page * PAGE_SIZE + key], a.lanes))
                for i, vector in zip(vectors, value, strict=True):
                    store(out, load(out, [r, i * a.lanes], a.lanes) + vector * p, [r, i * a.lanes])

    def _load(self, page: Expr, kind: int, key: Expr, vectors: range) -> list[Expr]:
        """Some vectors of a key (0) or value (1) of a page, fp32."""
        a, place = self.a, [self._page(page), kind, self.kv_head, key]
        return [T.bind(cast("float32", load(self.cache.pages, [*place, i * a.lanes], a.lanes))) for i in vectors]

    def _later(self, page: Expr) -> tuple[Expr, Expr]:
        """The page and the KV head whose keys to prefetch: `AHEAD_PAGES` pages later, in this block or the next."""
        ahead = T.bind(page + AHEAD_PAGES)
        number = T.min(self.number + tirx.truncdiv(ahead, self.pages), self.blocks - 1)
        return T.bind(self._page(tirx.truncmod(ahead, self.pages))), T.bind(self._kv_head_of(number))

    def _page(self, number: Expr) -> Expr:
        """The number in the cache of the part's page."""
        return self.cache.values[self.first + number]

    def _kv_head_of(self, block: Expr) -> Expr:
        return block * self.a.together // self.a.q_per_kv

    def _prefetch(self, page: Expr, kind: int, kv_head: Expr, key: Expr) -> None:
        # To the L2 cache: the L1 cache waits for few lines at once, and holds few pages.
        for i in range(0, self.a.head_dim, LINE_BYTES // np.dtype(self.a.dtype).itemsize):
            prefetch(self.cache.pages, [page, kind, kv_head, key, i], far=True)

    def _multiply(self, page: Expr, start: int, key: Expr) -> None:
        """Multiply a key by the queries, without the sum over lanes."""
        row = self._load(page, 0, start + key, range(self.a.vectors))
        for r in range(self.a.together):
            product = row[0] * self.query[r][0]
            for i in range(1, self.a.vectors):
                product = product + row[i] * self.query[r][i]
            store(self.products, product, [r, key, 0])
