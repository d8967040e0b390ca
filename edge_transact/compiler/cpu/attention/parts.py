"""Shared by attention kernels: their arguments, the softmax, and the store of a head's output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.script import tirx as T
from tvm.tirx import Buffer, Expr, Var

from edge_transact.compiler.vector import Index, cast, exp, load, max_lanes, splat, store, sum_lanes, tensor
from edge_transact.costs import PAGE_SIZE


@dataclass(frozen=True)
class Attention:
    """The heads of one cache layer, the dtype of queries, cache and output, and the fp32 lanes of a vector."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    dtype: str
    lanes: int

    @property
    def q_per_kv(self) -> int:
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def vectors(self) -> int:
        return self.head_dim // self.lanes

    @property
    def together(self) -> int:
        """Query heads of one KV head that decode computes together, converting each key to fp32 once."""
        # With 512 bits, their outputs fill half of the 32 registers.
        most = 16 if self.lanes == 16 else 48
        fitting = [n for n in range(1, self.q_per_kv + 1) if self.q_per_kv % n == 0 and n * self.vectors <= most]
        return max(fitting, default=1)

    @property
    def vectors_together(self) -> int:
        """Vectors of a value that decode weighs in one pass over the keys, for sums that stay in registers.

        AVX2 has 16 registers, AVX-512 and Arm have 32; the vectors and a numerator need some, too.
        """
        most = {16: 16, 8: 9, 4: 12}[self.lanes]
        fitting = [n for n in range(1, self.vectors + 1) if self.vectors % n == 0 and n * self.together <= most]
        return max(fitting, default=1)


def lanes_for(head_dim: int, most: int) -> int | None:
    """The most lanes, up to `most`, of vectors that come in pairs in a head; `None` if none do."""
    return next((lanes for lanes in (16, 8, 4) if lanes <= most and head_dim % (2 * lanes) == 0), None)


def inverse_frequencies(head_dim: int, theta: float, scaling: Mapping[str, Any]) -> np.ndarray:
    """RoPE's inverse frequencies, float32 ``[head_dim / 2]``, scaled as in transformers' ``modeling_rope_utils.py``."""
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling.get("rope_type") == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        share = np.clip((turns - low) / (high - low), 0, 1)
        frequencies = (1 - share) * frequencies / scaling["factor"] + share * frequencies
    return frequencies.astype(np.float32)


MASKED = -5e4
"""The score of a key that the query must not see, as in TVM's own kernels."""

_INT32_SCALARS = ("causal", "rotary_mode")


def scalars(*names: str) -> list[Var]:
    return [T.arg(name, T.int32() if name in _INT32_SCALARS else T.float32()) for name in names]


class PagedCache:
    """The arguments with the keys and values of each sequence, whose page numbers are in `values` from `indptr` on."""

    def __init__(self, a: Attention, batch: Expr) -> None:
        self.nnz, num_pages = T.int32(), T.int32()
        self.pages = tensor("pages", (num_pages, 2, a.num_key_value_heads, PAGE_SIZE, a.head_dim), a.dtype)
        self.indptr = tensor("page_indptr", (batch + 1,), "int32", T.int32())
        self.values = tensor("page_values", (self.nnz,), "int32", T.int32())
        self.last_page = tensor("length_info", (batch,), "int32", T.int32())


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
    """Store a head's values over the denominator, and its log-sum-exp (log2): `MASKED` without keys."""
    inverse = denominator_inverse(total)
    for i, vector in enumerate(sums):
        store(output, cast(a.dtype, vector * splat(inverse, a.lanes)), [row, head, i * a.lanes])
    T.buffer_store(lse, maximum + T.log2(T.max(total, T.float32(1))), [row, head])
