"""The GPU's attention kernels against numpy, executed on this computer's CPU."""

import numpy as np
import pytest
import tvm

from edge_transact.compiler.gpu.attention import decode, merge
from edge_transact.costs import PAGE_SIZE
from tests.support.gpu_kernels import compiled
from tests.support.opencl import HERE

pytestmark = [pytest.mark.opencl, pytest.mark.usefixtures("executed")]

HALF, FLOAT = "float16", "float32"
LENGTHS = (1, 300, 0, PAGE_SIZE, 517)
"""Tokens of each sequence: one, more than a work group has threads, none, a whole page, and an odd number."""


@pytest.mark.parametrize(
    ("heads", "kv_heads", "dims", "dtype"),
    [(9, 3, 64, HALF), (2, 2, 128, HALF), (3, 1, 80, HALF), (2, 1, 16, FLOAT), (2, 1, 256, HALF)],
)
def test_decode_attends_to_the_pages_of_each_sequence(heads, kv_heads, dims, dtype):
    rng = np.random.default_rng(0)
    counts = [-(-length // PAGE_SIZE) for length in LENGTHS]
    query = rng.normal(size=(len(LENGTHS), heads, dims)).astype(dtype)
    pages = rng.normal(size=(sum(counts) + 3, 2, kv_heads, PAGE_SIZE, dims)).astype(dtype)
    first = np.cumsum([0, *counts]).astype("int32")
    table = rng.permutation(len(pages))[: sum(counts)].astype("int32")
    last = np.array([length - (count - 1) * PAGE_SIZE for length, count in zip(LENGTHS, counts, strict=True)], "int32")
    unused = np.zeros(len(LENGTHS), "int32")
    output, lse = np.zeros_like(query), np.zeros(query.shape[:2], FLOAT)
    arguments = [tvm.runtime.tensor(a) for a in (query, pages, first, table, last, unused, unused, output, lse)]

    compiled(decode(heads, kv_heads, dims, dtype))(*arguments, 0, 1.0, 1e4, dims**-0.5)

    output, lse = (argument.numpy() for argument in arguments[-2:])
    for i, length in enumerate(LENGTHS):
        keys, values = pages[table[first[i] : first[i + 1]]].astype("float64").transpose(1, 2, 0, 3, 4)
        for head in range(heads):
            k, v = (part[head * kv_heads // heads].reshape(-1, dims)[:length] for part in (keys, values))
            terms = np.exp(k @ query[i, head] * dims**-0.5)
            wanted = terms @ v / terms.sum() if length else np.zeros(dims)
            np.testing.assert_allclose(output[i, head], wanted, atol=1e-3 if dtype == HALF else 1e-6)
            if length:
                np.testing.assert_allclose(lse[i, head], np.log2(terms.sum()), atol=2e-3 if dtype == HALF else 1e-5)
            else:
                # Merged with another part of the sequence, it has no weight.
                assert lse[i, head] < -1e4


@pytest.mark.parametrize(("heads", "dims"), [(9, 128), (32, 64), (1, 256)])
def test_merging_covers_all_heads_in_any_order(heads, dims):
    rng = np.random.default_rng(0)
    outputs = [rng.normal(size=(5, heads, dims)).astype(HALF) for _ in range(2)]
    lse = [rng.normal(size=(5, heads)).astype(FLOAT) for _ in range(2)]
    kernel = compiled(merge(heads, dims, HALF, int(HERE.attrs["max_num_threads"])))
    ours = [tvm.runtime.tensor(part) for part in (outputs[0], lse[0])]
    kernel(*ours, *map(tvm.runtime.tensor, (outputs[1], lse[1])))

    total = np.log2(np.exp2(lse[0]) + np.exp2(lse[1]))
    wanted = sum(part * np.exp2(of - total)[..., None] for part, of in zip(outputs, lse, strict=True))
    np.testing.assert_allclose(ours[0].numpy(), wanted, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(ours[1].numpy(), total, rtol=1e-5, atol=1e-5)
