"""What the kernels have in common: how they begin, the softmax, and how a head's output is stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as builder

from edge_transact.compiler.cpu.attention.heads import PAGE_SIZE, Attention
from edge_transact.compiler.lowering import PLAIN_LOOPS
from edge_transact.compiler.vector import cast, exp, load, max_lanes, splat, store, sum_lanes

MASKED = -5e4
"""The score of a key that may not be seen, as in TVM's own kernels."""


def function(body: Callable[[], None]) -> tirx.PrimFunc:
    """What `body` emits, as a function."""
    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr(PLAIN_LOOPS)
        body()
    return ib.get()


def tensor(name: str, shape: tuple[Any, ...], dtype: str, *, offset: bool = False) -> Any:
    """An argument; the cache's small index tensors are views with an offset."""
    handle = T.arg(name, T.handle())
    return T.match_buffer(handle, shape, dtype, elem_offset=T.int32() if offset else None)


def scalars(*names: str) -> list[Any]:
    """Arguments that are numbers."""
    return [T.arg(name, T.float32() if name != "causal" and name != "rotary_mode" else T.int32()) for name in names]


def paged(a: Attention, batch: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Arguments that say which keys and values each sequence has.

    The pages ``[pages, 2, kv_heads, 16, head_dim]``; where each sequence's page numbers begin, int32 ``[batch + 1]``;
    the page numbers, int32 ``[nnz]``; tokens in each sequence's last page, int32 ``[batch]``; and nnz.
    """
    nnz, num_pages = T.int32(), T.int32()
    pages = tensor("pages", (num_pages, 2, a.num_key_value_heads, PAGE_SIZE, a.head_dim), a.dtype)
    indptr = tensor("page_indptr", (batch + 1,), "int32", offset=True)
    values = tensor("page_values", (nnz,), "int32", offset=True)
    last_page = tensor("length_info", (batch,), "int32", offset=True)
    return pages, indptr, values, last_page, nnz


def outputs(a: Attention, rows: Any) -> tuple[Any, Any]:
    """Arguments for what comes out: ``[rows, heads, head_dim]``, and log-sum-exps, fp32 ``[rows, heads]``."""
    output = tensor("output", (rows, a.num_attention_heads, a.head_dim), a.dtype)
    return output, tensor("lse", (rows, a.num_attention_heads), "float32")


def softmax(a: Attention, scores: Any, row: list[Any], vectors: Any) -> tuple[Any, Any]:
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


def store_output(
    a: Attention, output: Any, lse: Any, row: Any, head: Any, sums: list[Any], maximum: Any, total: Any
) -> None:
    """The weighted values over their weights' sum, and the log2 of the sum of all exponentials."""
    # Without keys there is no sum: zeros, with a log-sum-exp that loses in a merge.
    inverse = T.bind(T.float32(1) / T.max(total, T.float32(1e-30)))
    for i, vector in enumerate(sums):
        store(output, cast(a.dtype, vector * splat(inverse, a.lanes)), [row, head, i * a.lanes])
    T.buffer_store(lse, maximum + T.log2(T.max(total, T.float32(1))), [row, head])
