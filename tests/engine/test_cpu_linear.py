"""The CPU's products with packed weights are the products with the dequantized weights."""

import numpy as np
import pytest
import torch
from cpu_kernels import INSTRUCTION_SETS, compiled, describe
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_transact.engine.cpu.linear import Linear, embed, kernel, supports
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.weights import w4

QUANTIZATION = {("KN", "float16"): "q4f16_0", ("NK", "float16"): "q4f16_1", ("NK", "float32"): "q4f32_1"}

isas = pytest.mark.parametrize("isa", INSTRUCTION_SETS, ids=describe)


def run(linear: Linear, isa, rows: str, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The kernel's result and that of numpy in double precision."""
    quantization = QUANTIZATIONS[QUANTIZATION[linear.layout, linear.dtype]]
    weight = torch.from_numpy(rng.standard_normal((linear.out_features, linear.in_features), np.float32) * 0.1)
    q_weight, q_scale = w4.quantize(weight, quantization)
    # With fp32 scales no weight is rounded, as in the kernels.
    dense = w4.dequantize(q_weight, q_scale.astype(np.float32), quantization, linear.in_features)
    dense = np.asarray(dense).astype(np.float64)
    leading = {"one": (1, 1), "s": (1, count), "b": (count, 1)}[rows]

    def tensor(*shape):
        return rng.standard_normal(shape, np.float32).astype(linear.dtype)

    x = tensor(*leading, linear.in_features)
    norm = tensor(linear.in_features) if linear.norm_eps is not None else None
    bias = tensor(linear.out_features) if linear.bias else None
    residual = tensor(*leading, linear.width) if linear.residual else None
    out = np.zeros((*leading, linear.width), linear.out_dtype)
    arguments = [a for a in (x, q_weight, q_scale, norm, bias, residual, out) if a is not None]
    compiled(kernel(linear, isa, 2, rows=rows))(*arguments)

    want = x.astype(np.float64)
    if norm is not None:
        want = want / np.sqrt((want**2).mean(-1, keepdims=True) + linear.norm_eps) * norm
    want = want @ dense.T
    if bias is not None:
        want = want + bias
    if linear.gated:
        gate, up = np.split(want, 2, axis=-1)
        want = gate / (1 + np.exp(-gate)) * up
    if residual is not None:
        want = want + residual
    return out.astype(np.float64), want


def assert_close(got: np.ndarray, want: np.ndarray, isa, out_dtype: str) -> None:
    # One bf16 term has 8 bits, two have 16; the rest is fp32.
    tolerance = 1e-2 if isa.name == "avx512bf16" and isa.terms == 1 else 2e-5
    tolerance += 1e-3 if out_dtype == "float16" else 0
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


@isas
@pytest.mark.parametrize("layout", ["NK", "KN"])
@pytest.mark.parametrize(("rows", "count"), [("one", 1), ("s", 1), ("s", 13), ("b", 6)])
def test_plain(isa, layout, rows, count, rng):
    linear = Linear(576, 80, layout, "float16", "float16", "float32")
    got, want = run(linear, isa, rows, count, rng)
    assert_close(got, want, isa, "float32")


@isas
@pytest.mark.parametrize("layout", ["NK", "KN"])
@pytest.mark.parametrize("rows", ["one", "s"])
@pytest.mark.parametrize(
    "around",
    [
        {"norm_eps": 1e-5, "gated": True},
        {"bias": True, "gated": True, "residual": True},
        {"norm_eps": 1e-5, "bias": True, "residual": True},
    ],
    ids=lambda around: "-".join(around),
)
def test_with_what_surrounds_it(isa, layout, rows, around, rng):
    linear = Linear(96, 96, layout, "float16", "float16", "float16", **around)
    got, want = run(linear, isa, rows, 1 if rows == "one" else 7, rng)
    assert_close(got, want, isa, "float16")


@settings(max_examples=25, deadline=None)
@given(
    in_features=st.integers(1, 300),
    out_features=st.integers(32, 100),
    layout=st.sampled_from(["NK", "KN"]),
    isa=st.sampled_from(INSTRUCTION_SETS),
    norm=st.booleans(),
    rows=st.sampled_from([("one", 1), ("s", 5)]),
)
def test_every_shape(in_features, out_features, layout, isa, norm, rows):
    linear = Linear(
        in_features, out_features, layout, "float16", "float16", "float32", norm_eps=1e-5 if norm else None
    )
    got, want = run(linear, isa, *rows, np.random.default_rng(1))
    assert_close(got, want, isa, "float32")


@isas
def test_fp32_activations_keep_16_bits(isa, rng):
    if isa.terms == 1 and isa.name == "avx512bf16":
        return
    linear = Linear(512, 64, "NK", "float32", "float32", "float32")
    got, want = run(linear, isa, "one", 1, rng)
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


def test_a_matrix_narrower_than_a_vector_is_left_to_others():
    isa = INSTRUCTION_SETS[-1]
    assert not supports(Linear(64, isa.lanes - 1, "NK", "float16", "float16", "float16"), isa)
    assert not supports(Linear(64, 2 * isa.lanes - 2, "NK", "float16", "float16", "float16", gated=True), isa)


@pytest.mark.parametrize("features", [64, 41])
def test_embedding_rows(features, rng):
    quantization = QUANTIZATIONS["q4f16_0"]
    weight = torch.from_numpy(rng.standard_normal((50, features), np.float32))
    q_weight, q_scale = w4.quantize(weight, quantization, embedding=True)
    ids = np.array([3, 49, 0, 3], np.int32)
    out = np.zeros((4, features), np.float16)
    compiled(embed(50, features, "float16"))(ids, q_weight, q_scale, out)
    want = np.asarray(w4.dequantize(q_weight, q_scale, quantization, features, embedding=True))[ids]
    np.testing.assert_array_equal(out, want.astype(np.float16))
