"""Shared by attention kernels: their arguments, the softmax, and the store of a head's output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Buffer, Expr, Var
from tvm.tirx.script.builder import ir as builder

from edge_transact.compiler.cpu.attention.heads import PAGE_SIZE, Attention
from edge_transact.compiler.lowering import PLAIN_LOOPS
from edge_transact.compiler.vector import Index, cast, exp, load, max_lanes, splat, store, sum_lanes

MASKED = -5e4
"""The score of a key that the query must not see, as in TVM's own kernels."""

_INT32_SCALARS = ("causal", "rotary_mode")


def function(body: Callable[[], None]) -> tirx.PrimFunc:
    """What `body` emits, as a function."""
    with IRBuilder() as ib, builder.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr(PLAIN_LOOPS)
        body()
    return ib.get()


def tensor(name: str, shape: tuple[Index, ...], dtype: str, *, offset: bool = False) -> Buffer:
    """A tensor argument; the cache's small index tensors are views with an offset."""
    handle = T.arg(name, T.handle())
    return T.match_buffer(handle, shape, dtype, elem_offset=T.int32() if offset else None)


def scalars(*names: str) -> list[Var]:
    """Scalar arguments."""
    return [T.arg(name, T.int32() if name in _INT32_SCALARS else T.float32()) for name in names]


class PagedCache:
    """The arguments with the keys and values of each sequence.

    Attributes:
        pages: Keys and values, ``[pages, 2, kv_heads, 16, head_dim]``.
        indptr: Where each sequence's page numbers start, int32 ``[batch + 1]``.
        values: The page numbers, int32 ``[nnz]``.
        last_page: Tokens in each sequence's last page, int32 ``[batch]``.
        nnz: Page numbers of all sequences.
    """

    def __init__(self, a: Attention, batch: Expr) -> None:
        self.nnz, num_pages = T.int32(), T.int32()
        self.pages = tensor("pages", (num_pages, 2, a.num_key_value_heads, PAGE_SIZE, a.head_dim), a.dtype)
        self.indptr = tensor("page_indptr", (batch + 1,), "int32", offset=True)
        self.values = tensor("page_values", (self.nnz,), "int32", offset=True)
        self.last_page = tensor("length_info", (batch,), "int32", offset=True)


def outputs(a: Attention, rows: Expr) -> tuple[Buffer, Buffer]:
    """The arguments for the results: ``[rows, heads, head_dim]``, and log-sum-exps, fp32 ``[rows, heads]``."""
    output = tensor("output", (rows, a.num_attention_heads, a.head_dim), a.dtype)
    return output, tensor("lse", (rows, a.num_attention_heads), "float32")


def softmax(a: Attention, scores: Buffer, row: Sequence[Index], vectors: Expr) -> tuple[Expr, Expr]:
    """Replace scores (log2) ``[*row, keys]`` by ``2 ** (score - maximum)``; returns the maximum and the denominator."""
    lanes = a.lanes
    largest = T.alloc_buffer((lanes,), "float32")
    total = T.alloc_buffer((lanes,), "float32")
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


def denominator_inverse(total: Expr) -> Expr:
    """The reciprocal of a softmax's denominator, finite for a query without keys, whose output is then zero."""
    return T.bind(T.float32(1) / T.max(total, T.float32(1e-30)))


def store_output(
    a: Attention,
    output: Buffer,
    lse: Buffer,
    row: Expr,
    head: Expr,
    sums: list[Expr],
    maximum: Expr,
    total: Expr,
) -> None:
    """Store a head's weighted values over the denominator, and its log-sum-exp (log2).

    Without keys the log-sum-exp is `MASKED`, which loses in a merge.
    """
    inverse = denominator_inverse(total)
    for i, vector in enumerate(sums):
        store(output, cast(a.dtype, vector * splat(inverse, a.lanes)), [row, head, i * a.lanes])
    T.buffer_store(lse, maximum + T.log2(T.max(total, T.float32(1))), [row, head])
