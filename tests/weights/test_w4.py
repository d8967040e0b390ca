"""W4A16 packing against MLC-LLM's own output, and what must hold for any weight."""

from pathlib import Path

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edge_transact.quantization import QUANTIZATIONS
from edge_transact.weights import w4
from tests.support.packed import quantize

GOLDEN = np.load(Path(__file__).parent.parent / "data" / "mlc_w4.npz")
CASES = sorted({key.split(".")[0] for key in GOLDEN.files})
W4 = [name for name, quantization in QUANTIZATIONS.items() if quantization.bits == 4]


@pytest.mark.parametrize("kind", ["linear", "embedding"])
@pytest.mark.parametrize("name", W4)
@pytest.mark.parametrize("case", CASES)
def test_packs_like_mlc(case, name, kind):
    weight = torch.from_numpy(GOLDEN[f"{case}.weight"])
    q_weight, q_scale = quantize(weight, QUANTIZATIONS[name], embedding=kind == "embedding")
    for ours, part in ((q_weight, "q_weight"), (q_scale, "q_scale")):
        theirs = GOLDEN[f"{case}.{name}.{kind}.{part}"]
        assert ours.dtype == theirs.dtype and ours.flags.c_contiguous
        np.testing.assert_array_equal(ours, theirs)


def weights(max_magnitude):
    shapes = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=100)
    values = st.floats(-max_magnitude, max_magnitude, width=32)
    return npst.arrays(np.float32, shapes, elements=values).map(torch.from_numpy)


def rounding_of(quantization):
    return np.finfo(quantization.model_dtype).eps


@pytest.mark.parametrize("name", W4)
@given(weight=weights(1000.0), embedding=st.booleans())
def test_error_is_at_most_half_a_step(name, weight, embedding):
    quantization = QUANTIZATIONS[name]
    q_weight, q_scale = quantize(weight, quantization, embedding=embedding)
    restored = w4.dequantize(q_weight, q_scale, quantization, weight.shape[1], embedding=embedding)
    assert restored.shape == tuple(weight.shape) and restored.dtype == quantization.model_dtype
    if quantization.linear_layout == "KN" and not embedding:
        q_scale = q_scale.T
    scale = np.repeat(q_scale, quantization.group_size, axis=1)[:, : weight.shape[1]].astype(np.float64)
    eps = rounding_of(quantization)
    tiny = np.finfo(quantization.model_dtype).smallest_subnormal
    # Half a step, a step's part for the roundings at values of up to 14, and the dtype's own floor.
    bound = scale * (0.5 + 16 * eps) + np.abs(weight.numpy()) * eps + 8 * tiny
    assert (np.abs(restored.astype(np.float64) - weight.numpy()) <= bound).all()


@pytest.mark.parametrize("name", W4)
@given(weight=weights(8.0))
def test_quantization_is_idempotent(name, weight):
    # Values far above the subnormals, where the scale itself survives the round trip within a rounding.
    weight = torch.where(weight.abs() < 1e-2, torch.zeros(()), weight)
    quantization = QUANTIZATIONS[name]
    first = quantize(weight, quantization)
    restored = torch.from_numpy(w4.dequantize(*first, quantization, weight.shape[1]))
    q_weight, q_scale = quantize(restored, quantization)
    np.testing.assert_array_equal(q_weight, first[0])
    np.testing.assert_allclose(q_scale, first[1], rtol=2 * rounding_of(quantization))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_checkpoint_dtype_gives_the_same_bits(dtype):
    weight = torch.randn(9, 70, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for name in W4:
        expected = quantize(weight, QUANTIZATIONS[name])
        if dtype is not torch.float16 or name != "q4f32_1":
            for ours, theirs in zip(quantize(weight.to(dtype), QUANTIZATIONS[name]), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)
