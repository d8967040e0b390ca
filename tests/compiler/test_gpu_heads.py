"""The GPU's matmuls around heads that lost dims, against numpy: `qkv_proj` with RoPE and padding, and `o_proj`."""

from dataclasses import replace

import numpy as np
import pytest
import tvm

from edge_transact.compiler.matmul import CacheHeads, Matmul
from tests.support.cache_heads import of_cache
from tests.support.gpu_kernels import compiled, selected, weights
from tests.support.packed import W4F16, W4F32, product

pytestmark = [pytest.mark.opencl, pytest.mark.usefixtures("executed")]

HALF, FLOAT = "float16", "float32"
HEADS = CacheHeads(num_attention_heads=6, num_key_value_heads=2, head_dim=32)
BEFORE = 16
"""RoPE pairs of a head before pruning."""


def close(ours: np.ndarray, wanted: np.ndarray, dtype: str) -> bool:
    return np.sqrt(((ours - wanted) ** 2).mean() / (wanted**2).mean()) <= (1.2e-3 if dtype == HALF else 1e-6)


@pytest.mark.parametrize("rows", [1, 21])
@pytest.mark.parametrize(
    "matmul",
    [Matmul("KN", HALF, W4F16, HALF, norm_eps=1e-5), Matmul("NK", FLOAT, W4F32, FLOAT, bias=True)],
    ids=["KN with a norm", "NK with a bias"],
)
def test_heads_of_any_dims_are_rotated_and_padded(matmul, rows):
    rng = np.random.default_rng(0)
    features, layers = 96, 2
    # Only decode applies norms.
    matmul = replace(matmul, heads=HEADS, norm_eps=matmul.norm_eps if rows == 1 else None)
    kernels = {}
    for qk, d_v in ((32, 32), (12, 24), (20, 7), (2, 1)):
        key, make = selected(matmul, rows, features, 0, qk, d_v)
        if key not in kernels:
            kernels[key] = compiled(make())
        kernel = kernels[key]
        count = layers * ((HEADS.num_attention_heads + 2) * qk + 2 * d_v)
        x = rng.normal(size=(1, rows, features)).astype(matmul.dtype)
        words, scale, matrix = weights(rng, matmul.layout, features, count, matmul.quantization.model_dtype)
        norm = [rng.normal(size=features).astype(matmul.dtype)] if matmul.norm_eps else []
        bias = [rng.normal(size=count).astype(matmul.dtype)] if matmul.bias else []
        angles = rng.uniform(0, 7, (rows, BEFORE)).astype(FLOAT)
        pairs = np.stack([np.sort(rng.permutation(BEFORE)[: qk // 2]) for _ in range(layers * 2)]).astype("int32")
        y = product(matmul, x[0], matrix, *(next(iter(part), None) for part in (norm, bias)))
        rotation = np.stack([np.cos(angles), np.sin(angles)])
        tensors = [tvm.runtime.tensor(a) for a in (x, words, scale, *norm, *bias, rotation, pairs)]
        for layer in range(layers):
            out = tvm.runtime.tensor(np.full((1, rows, 10, HEADS.head_dim), 7, matmul.out_dtype))
            kernel(*tensors, qk, d_v, layer, out)
            wanted = of_cache(HEADS, y, angles, pairs, qk, d_v, layer)
            assert close(out.numpy()[0], wanted, matmul.dtype)
            assert np.array_equal(out.numpy()[0] == 0, wanted == 0), "padding"
    # In KN, a thread of decode computes two neighbouring pairs, where all halves are even.
    assert len(kernels) == (2 if rows == 1 and matmul.layout == "KN" else 1)


@pytest.mark.parametrize("rows", [1, 21])
@pytest.mark.parametrize(
    "matmul", [Matmul("KN", HALF, W4F16, HALF), Matmul("NK", FLOAT, W4F32, FLOAT)], ids=lambda matmul: matmul.layout
)
def test_padding_is_not_multiplied(matmul, rows):
    rng, dtype = np.random.default_rng(0), matmul.dtype
    matmul = replace(matmul, residual=True, padded=True)
    kernels = {}
    # Decode loads 8 features of a head at once. Where its dims are no multiple, the kernel for many rows serves.
    for v_head_dim, width in ((32, 66), (8, 66), (24, 34), (7, 34)):
        heads, head_dim = 9, 32
        key, make = selected(matmul, rows, heads * v_head_dim, width, v_head_dim)
        if key not in kernels:
            kernels[key] = compiled(make())
        x = rng.normal(size=(1, rows, heads, head_dim)).astype(dtype)
        words, scale, matrix = weights(rng, matmul.layout, heads * v_head_dim, width, dtype)
        residual = rng.normal(size=(1, rows, width)).astype(dtype)
        out = tvm.runtime.tensor(np.zeros_like(residual))
        kernels[key](*map(tvm.runtime.tensor, (x, words, scale, residual)), v_head_dim, out)
        flat = x[..., :v_head_dim].reshape(1, rows, -1).astype("float64")
        assert close(out.numpy(), flat @ matrix + residual, dtype)
    assert len(kernels) == (2 if rows == 1 else 1)
