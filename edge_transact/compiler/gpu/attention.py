"""The KV cache's kernels on GPUs: decode and merge are ours, the others TVM's without unused code.

Layers of the cache are pages ``[pages, 2, num_key_value_heads, PAGE_SIZE, head_dim]``: keys, then values.
"""

from __future__ import annotations

import math

from tvm import tirx
from tvm.script import tirx as T

from edge_transact.compiler.gpu.source import C_NAMES, blocks, call, load_vector, wait
from edge_transact.compiler.lowering import SCHEDULED
from edge_transact.compiler.vector import cast, kernel_body, load, splat, store, tensor
from edge_transact.costs import PAGE_SIZE

LANES = 8
"""Dims that a thread of `decode` loads at once."""

THREADS = 256
"""The most threads of a work group of `decode`."""

TILE_PRODUCTS = 4096
"""The most products in local memory: 16 KiB of floats, half of a phone's."""

LOWEST = -5e4
"""A score below all others, as in TVM's kernels."""


def rotated_before(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """An attention kernel of TVM without its branch that rotates q and k: our models rotate keys before the cache."""
    (mode,) = (parameter for parameter in function.params if parameter.name == "rotary_mode")
    return function.with_body(tirx.stmt_functor.substitute(function.body, {mode: T.int32(0)}))


def decode(num_attention_heads: int, num_key_value_heads: int, head_dim: int, dtype: str) -> tirx.PrimFunc:
    """Attention of one token of each sequence to the cache, with the arguments of TVM's ``_attention_decode``.

    A work group computes one query head (TVM's, one KV head); those of a KV head read it at about the same time. The
    threads of a row hold `LANES` dims each of a head. Rows process the sequence's tokens in turns, with a softmax of
    their own, and are merged at the end. Heads have a multiple of `LANES` dims; sums are in fp32.
    """
    h_q, h_kv, across = num_attention_heads, num_key_value_heads, head_dim // LANES
    rows = max(1, min(THREADS, TILE_PRODUCTS // across) // across)
    tile = across * rows
    name, wide, lanes = C_NAMES[dtype], f"float32x{LANES}", LANES if across % LANES == 0 else 1
    with kernel_body(SCHEDULED, name="batch_decode_paged_kv") as ib:
        n, num_pages, used_pages = T.int32(), T.int32(), T.int32()

        query = tensor("query", (n, h_q, head_dim), dtype)
        pages = tensor("pages", (num_pages, 2, h_kv, PAGE_SIZE, head_dim), dtype, T.int64())
        first_page = tensor("page_table_indptr", (n + 1,), "int32", T.int32())
        page_table = tensor("page_table_values", (used_pages,), "int32", T.int32())
        last_page_length = tensor("length_info", (n,), "int32", T.int32())
        for unused in ("k_rope_pos_offset", "q_rope_position"):
            tensor(unused, (n,), "int32", T.int32())
        output, weight = tensor("output", (n, h_q, head_dim), dtype), tensor("lse", (n, h_q), "float32")
        T.arg("rotary_mode", T.int32())
        for unused in ("rope_scale", "rope_theta"):
            T.arg(unused, T.float32())
        scale = T.arg("sm_scale", T.float32())
        with (
            T.thread_binding(n, thread="blockIdx.y") as sequence,
            T.thread_binding(h_q, thread="blockIdx.x") as head,
        ):
            # Local memory: the dot products of a tile, of which each thread has computed a part, and their sums.
            products = T.alloc_buffer((tile * across,), "float32", scope="shared")
            scores = T.alloc_buffer((tile,), "float32", scope="shared")
            states = T.alloc_buffer((2, rows), "float32", scope="shared")
            outputs = T.alloc_buffer((rows * head_dim,), "float32", scope="shared")
            with (
                T.thread_binding(rows, thread="threadIdx.y") as y,
                T.thread_binding(across, thread="threadIdx.x") as x,
            ):
                thread, kv_head = T.bind(y * across + x), T.bind(head // (h_q // h_kv))
                first, end = T.bind(first_page[sequence]), T.bind(first_page[sequence + 1])
                whole = (end - first - 1) * PAGE_SIZE
                length = T.bind(T.Select(first < end, whole + last_page_length[sequence], 0))
                q = load_vector(query, [sequence, head, x * LANES], LANES)
                q = call(wide, f"scaled_{name}", q, scale * T.float32(math.log2(math.e)))

                def stored(kind: int, token: tirx.Expr) -> tirx.Expr:
                    page = T.bind(page_table[first + token // PAGE_SIZE])
                    return load_vector(pages, [page, kind, kv_head, token % PAGE_SIZE, x * LANES], LANES)

                # A token's score; the row's largest, the sum of their exponentials, and its values times them.
                score, most, total, sums = (
                    T.alloc_buffer((size,), "float32", scope="local") for size in (1, 2, 1, LANES)
                )
                T.buffer_store(most, T.float32(LOWEST), [0])
                T.buffer_store(total, T.float32(0), [0])
                store(sums, splat(T.float32(0), LANES), [0])
                with T.serial(0, blocks(length, tile)) as turn:
                    begin = T.bind(turn * tile)
                    own = T.bind(blocks(T.min(length - begin, tile) - y, rows))
                    with T.serial(0, own) as i:
                        part = call("float32", f"dot_{name}", stored(0, begin + i * rows + y), q, T.float32(0))
                        T.buffer_store(products, part, [i * tile + thread])
                    wait()
                    T.buffer_store(score, T.float32(0), [0])
                    with T.serial(0, across // lanes) as i:
                        parts = load_vector(products, [thread * across + i * lanes], lanes)
                        ones = splat(T.float32(1), lanes)
                        added = parts + score[0] if lanes == 1 else call("float32", "dot_float", parts, ones, score[0])
                        T.buffer_store(score, added, [0])
                    T.buffer_store(scores, score[0], [thread])
                    wait()
                    T.buffer_store(most, most[0], [1])
                    with T.serial(0, own) as i:
                        T.buffer_store(most, T.max(most[1], scores[i * rows + y]), [1])
                    factor = T.bind(T.exp2(most[0] - most[1]))
                    T.buffer_store(most, most[1], [0])
                    T.buffer_store(total, total[0] * factor, [0])
                    store(sums, load(sums, [0], LANES) * splat(factor, LANES), [0])
                    with T.serial(0, own) as i:
                        p = T.bind(T.exp2(scores[i * rows + y] - most[0]))
                        T.buffer_store(total, total[0] + p, [0])
                        value = stored(1, begin + i * rows + y)
                        store(sums, call(wide, f"add_scaled_{name}", value, p, load(sums, [0], LANES)), [0])
                # TVM may give both arrays the same memory.
                wait()
                with T.If(x == 0), T.Then():
                    T.buffer_store(states, most[0], [0, y])
                wait()
                T.buffer_store(most, most[0], [1])
                with T.serial(0, rows) as row:
                    T.buffer_store(most, T.max(most[1], states[0, row]), [1])
                factor = T.bind(T.exp2(most[0] - most[1]))
                for lane in range(LANES):
                    T.buffer_store(outputs, sums[lane] * factor, [thread * LANES + lane])
                with T.If(x == 0), T.Then():
                    T.buffer_store(states, total[0] * factor, [1, y])
                wait()
                with T.serial(0, blocks(T.int32(head_dim), tile)) as turn:
                    dim = T.bind(turn * tile + thread)
                    with T.If(dim < head_dim), T.Then():
                        T.buffer_store(total, T.float32(0), [0])
                        T.buffer_store(score, T.float32(0), [0])
                        with T.serial(0, rows) as row:
                            T.buffer_store(total, total[0] + states[1, row], [0])
                            T.buffer_store(score, score[0] + outputs[row * head_dim + dim], [0])
                        # A sequence without tokens in this part of the cache has weight 0.
                        every = T.bind(T.max(total[0], T.float32(1e-30)))
                        T.buffer_store(output, cast(dtype, score[0] / every), [sequence, head, dim])
                        with T.If(dim == 0), T.Then():
                            T.buffer_store(weight, most[1] + T.log2(every), [sequence, head])
    return ib.get()


def merge(num_attention_heads: int, head_dim: int, dtype: str, max_threads: int) -> tirx.PrimFunc:
    """Merge attentions to two parts of a sequence into the first of the two, in place.

    Arguments: output and log-sum-exp (base 2) of the first, ``[n, heads, dim]`` and ``[n, heads]``, then of the second.
    In TVM's ``_merge_state_inplace``, a thread may overwrite a log-sum-exp before another reads it.
    """
    together = math.gcd(num_attention_heads, max(1, max_threads // head_dim))
    with kernel_body(SCHEDULED) as ib:
        n = T.int32()
        heads, dims = T.int32(), T.int32()

        output, weight = tensor("output", (n, heads, dims), dtype), tensor("lse", (n, heads), "float32")
        other = tensor("other", (n, heads, dims), dtype)
        other_weight = tensor("other_lse", (n, heads), "float32")
        with (
            T.thread_binding(n, thread="blockIdx.x") as i,
            T.thread_binding(heads // together, thread="blockIdx.y") as block,
            T.thread_binding(together, thread="threadIdx.y") as y,
            T.thread_binding(head_dim, thread="threadIdx.x") as dim,
        ):
            head = T.bind(block * together + y)
            a, b = T.bind(weight[i, head]), T.bind(other_weight[i, head])
            most = T.bind(T.max(a, b))
            first, second = T.bind(T.exp2(a - most)), T.bind(T.exp2(b - most))
            total = T.bind(first + second)
            wait()
            mean = cast("float32", output[i, head, dim]) * first + cast("float32", other[i, head, dim]) * second
            T.buffer_store(output, cast(dtype, mean / total), [i, head, dim])
            with T.If(dim == 0), T.Then():
                T.buffer_store(weight, T.log2(total) + most, [i, head])
    return ib.get()
