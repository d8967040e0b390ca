"""The CPU's paged attention is attention: softmax over the keys that each query sees, from pages in any order."""

import functools
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edge_transact.compiler.cpu.attention import PAGE_SIZE, Attention, inverse_frequencies, kernels
from tests.support.checkpoints import LLAMA3
from tests.support.cpu_kernels import INSTRUCTION_SETS, compiled


@pytest.fixture(params=sorted({isa.lanes for isa in INSTRUCTION_SETS}), ids=lambda lanes: f"lanes{lanes}")
def attention(request) -> Attention:
    return Attention(6, 2, 64, "float16", request.param)


@functools.cache
def compiled_kernel(attention: Attention, name: str, threads: int) -> Callable:
    """A kernel on this machine, compiled once."""
    return compiled(kernels(attention, inverse_frequencies(attention.head_dim, 1e4, {}), threads)[name])


@pytest.fixture
def kernel(attention) -> Callable[..., Callable]:
    """``kernel(name, threads=2)``; only decode depends on the number of threads."""
    return lambda name, threads=2: compiled_kernel(attention, name, threads)


def expected(q, k, v, causal):
    """Output and log2-sum-exp of ``[n, heads, dim]`` queries, in double precision."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    scores = np.einsum("qhd,khd->qhk", q, k) * q.shape[-1] ** -0.5
    if causal:
        position = np.arange(len(q)) + len(k) - len(q)
        scores = np.where(np.arange(len(k)) <= position[:, None, None], scores, -np.inf)
    largest = scores.max(-1, keepdims=True)
    weights = np.exp(scores - largest)
    total = weights.sum(-1, keepdims=True)
    return np.einsum("qhk,khd->qhd", weights / total, v), (largest + np.log(total))[..., 0] * np.log2(np.e)


def assert_attention(output, lse, want):
    np.testing.assert_allclose(output, want[0], atol=2e-3)
    np.testing.assert_allclose(lse, want[1], atol=1e-4)


def random(rng, *shape):
    return rng.standard_normal(shape, np.float32).astype(np.float16)


def paged(attention, rng, kernel, lengths):
    """Keys and values of some sequences, and the same in a cache whose unused numbers are NaN."""
    counts = [-(-length // PAGE_SIZE) for length in lengths]
    order = rng.permutation(sum(counts) + 2)[: sum(counts)].astype(np.int32)
    pages = np.full(
        (sum(counts) + 2, 2, attention.num_key_value_heads, PAGE_SIZE, attention.head_dim), np.nan, np.float16
    )
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    data = []
    for length, first in zip(lengths, indptr, strict=False):
        k, v = (random(rng, length, attention.num_key_value_heads, attention.head_dim) for _ in range(2))
        token = np.arange(length)
        positions = (order[first + token // PAGE_SIZE] * PAGE_SIZE + token % PAGE_SIZE).astype(np.int32)
        kernel("append")(pages, k, v, positions)
        data.append((k, v))
    last = np.array([(length - 1) % PAGE_SIZE + 1 for length in lengths], np.int32)
    return data, (pages, indptr, order, last)


@pytest.mark.parametrize("threads", [2, 5])
def test_decode(attention, kernel, threads, rng):
    """Two threads divide the heads evenly, five don't."""
    lengths = [1, 16, 77]
    data, cache = paged(attention, rng, kernel, lengths)
    q = random(rng, 3, attention.num_attention_heads, attention.head_dim)
    output, lse = np.zeros_like(q), np.zeros(q.shape[:2], np.float32)
    unused = np.zeros(3, np.int32)
    call = kernel("decode", threads)
    call(q, *cache, unused, unused, output, lse, 0, 1.0, 1e4, q.shape[-1] ** -0.5)
    for i, (k, v) in enumerate(data):
        assert_attention(output[i : i + 1], lse[i : i + 1], expected(q[i : i + 1], k, v, False))


@pytest.mark.parametrize("causal", [False, True])
def test_prefill_from_pages(attention, kernel, rng, causal):
    data, cache = paged(attention, rng, kernel, [45, 130])
    q = random(rng, 7 + 50, attention.num_attention_heads, attention.head_dim)
    indptr = np.array([0, 7, 57], np.int32)
    output, lse = np.zeros_like(q), np.zeros(q.shape[:2], np.float32)
    call = kernel("prefill")
    unused = np.zeros(2, np.int32), np.zeros(57, np.int32)
    call(q, indptr, *cache, *unused, output, lse, int(causal), 0, 1.0, 1e4, q.shape[-1] ** -0.5)
    for (k, v), first, end in zip(data, indptr, indptr[1:], strict=False):
        assert_attention(output[first:end], lse[first:end], expected(q[first:end], k, v, causal))


def test_prefill_of_new_tokens(attention, kernel, rng):
    indptr = np.array([0, 1, 40, 75], np.int32)
    q = random(rng, 75, attention.num_attention_heads, attention.head_dim)
    k, v = (random(rng, 75, attention.num_key_value_heads, attention.head_dim) for _ in range(2))
    output, lse = np.zeros_like(q), np.zeros(q.shape[:2], np.float32)
    call = kernel("prefill_ragged")
    unused = np.zeros(75, np.int32), np.zeros(3, np.int32)
    call(q, indptr, k, v, indptr, *unused, output, lse, 1, 0, 1.0, 1e4, q.shape[-1] ** -0.5)
    for first, end in itertools.pairwise(indptr):
        part = slice(first, end)
        assert_attention(output[part], lse[part], expected(q[part], k[part], v[part], True))


def test_merged_parts_are_the_whole(attention, kernel, rng):
    q = random(rng, 5, attention.num_attention_heads, attention.head_dim)
    k, v = (random(rng, 60, attention.num_key_value_heads, attention.head_dim) for _ in range(2))
    parts = [expected(q, k[part], v[part], False) for part in (slice(0, 17), slice(17, 60))]
    (output, lse), other = [(o.astype(np.float16), s.astype(np.float32)) for o, s in parts]
    kernel("merge")(output, lse, *other)
    assert_attention(output, lse, expected(q, k, v, False))


def test_frequencies_are_those_of_transformers():
    scaling = LLAMA3 | {"rope_theta": 1e5, "original_max_position_embeddings": 8192}
    config = LlamaConfig(hidden_size=512, num_attention_heads=8, rope_parameters=scaling)
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy()
    np.testing.assert_allclose(inverse_frequencies(64, 1e5, scaling), scaled, rtol=1e-6)
    np.testing.assert_allclose(inverse_frequencies(64, 1e5, {}), 1e5 ** -(np.arange(0, 64, 2) / 64), rtol=1e-6)


def test_rope(attention, kernel, rng):
    heads, kv_heads, d = attention.num_attention_heads, attention.num_key_value_heads, attention.head_dim
    positions = np.array([0, 1, 17, 4095, 100_000], np.int32)
    qkv = random(rng, 5, heads + 2 * kv_heads, d)
    q, k, v = (np.zeros((5, n, d), np.float16) for n in (heads, kv_heads, kv_heads))
    kernel("split_rotary")(qkv, positions, q, k, v, 1)
    angles = (positions[:, None].astype(np.float32) * inverse_frequencies(d, 1e4, {})).astype(np.float64)
    x = qkv.astype(np.float64)
    low, high = x[..., : d // 2], x[..., d // 2 :]
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    want = np.concatenate([low * cosine - high * sine, high * cosine + low * sine], axis=-1)
    np.testing.assert_allclose(q, want[:, :heads], atol=3e-3)
    np.testing.assert_allclose(k, want[:, heads : heads + kv_heads], atol=3e-3)
    np.testing.assert_array_equal(v, qkv[:, heads + kv_heads :])
    kernel("split_rotary")(qkv, positions, q, k, v, 0)
    np.testing.assert_array_equal(q, qkv[:, :heads])
