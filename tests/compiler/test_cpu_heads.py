"""The CPU's kernels for heads that lost dims, against numpy: with RoPE and padding for the KV cache, and without."""

import numpy as np
import pytest

from edge_transact.compiler.cpu import heads
from edge_transact.compiler.matmul import CacheHeads
from tests.support.cache_heads import of_cache
from tests.support.cpu_kernels import compiled

HEADS = CacheHeads(num_attention_heads=6, num_key_value_heads=2, head_dim=64)
BEFORE, LAYERS = 32, 2
dtypes = pytest.mark.parametrize("dtype", ["float16", "float32"])


@dtypes
@pytest.mark.parametrize("kept", [True, False], ids=["some pairs", "all pairs"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 1)], ids=["decode", "prefill", "batch"])
def test_heads_of_any_dims_are_rotated_and_padded(dtype, kept, shape):
    rng = np.random.default_rng(0)
    rows = shape[0] * shape[1]
    kernel = compiled(heads.rope(HEADS, dtype, pairs=kept))
    h_q, h_kv = HEADS.num_attention_heads, HEADS.num_key_value_heads
    for qk, d_v in ((56, 64), (48, 16), (26, 7), (2, 1)) if kept else ((64, 64), (64, 24)):
        qkv = rng.normal(size=(rows, LAYERS * ((h_q + h_kv) * qk + h_kv * d_v))).astype(dtype)
        angles = rng.uniform(0, 7, (rows, BEFORE)).astype("float32")
        pairs = np.stack([np.sort(rng.permutation(BEFORE)[: qk // 2]) for _ in range(LAYERS * h_kv)], dtype="int32")
        tensors = [qkv.reshape(*shape, -1), np.stack([np.cos(angles), np.sin(angles)]), *([pairs] if kept else [])]
        for layer in range(LAYERS):
            out = np.full((rows, h_q + 2 * h_kv, HEADS.head_dim), 7, dtype)
            kernel(*tensors, qk, d_v, layer, out)
            wanted = of_cache(HEADS, qkv.astype("float64"), angles, pairs, qk, d_v, layer)
            np.testing.assert_allclose(out, wanted, atol=4e-3 if dtype == "float16" else 1e-5)
            assert not out[wanted == 0].any(), "padding"


def test_pairs_of_another_shape_are_refused():
    kernel, d_v = compiled(heads.rope(HEADS, "float32", pairs=True)), 8
    rows = (HEADS.num_attention_heads + HEADS.num_key_value_heads) * 48 + HEADS.num_key_value_heads * d_v
    qkv, rotation = np.zeros((1, 1, rows), "float32"), np.zeros((2, 1, BEFORE), "float32")
    out = np.zeros((1, 10, HEADS.head_dim), "float32")
    for shape in ((2, 23), (2, 25), (1, 24), (4, 24)):
        with pytest.raises(ValueError, match="on argument #2"):
            kernel(qkv, rotation, np.zeros(shape, "int32"), 48, d_v, 0, out)
    kernel(qkv, rotation, np.zeros((2, 24), "int32"), 48, d_v, 0, out)


@dtypes
def test_padding_is_taken_out(dtype):
    rng = np.random.default_rng(0)
    kernel = compiled(heads.without_padding(dtype))
    for d_v in (24, 7, 1):
        x = rng.normal(size=(2, 3, HEADS.num_attention_heads, HEADS.head_dim)).astype(dtype)
        out = np.zeros((2, 3, HEADS.num_attention_heads * d_v), dtype)
        kernel(x, d_v, out)
        assert np.array_equal(out, x[..., :d_v].reshape(2, 3, -1))
