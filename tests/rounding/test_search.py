"""Searched scales against an independent implementation in numpy, and what must hold for any weight."""

from functools import partial

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import QUANTIZATIONS
from edge_transact.rounding.search import STEPS, best_scales, search
from edge_transact.weights import w4
from tests.support.packed import quantize

W4 = [name for name, quantization in QUANTIZATIONS.items() if quantization.bits == 4]


def packed(weight, name, importance=None, **options):
    importance = torch.ones(weight.shape[1]) if importance is None else importance
    rounding = partial(search, importance=importance, quantization=QUANTIZATIONS[name])
    return quantize(weight, QUANTIZATIONS[name], rounding=rounding, **options)


def restored(weight, name, importance=None, **options):
    words, scales = packed(weight, name, importance, **options)
    return w4.dequantize(words, scales, QUANTIZATIONS[name], weight.shape[1], **options).astype(np.float64)


def weights(max_magnitude=1000.0):
    shapes = npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=100)
    values = st.floats(-max_magnitude, max_magnitude, width=32)
    return npst.arrays(np.float32, shapes, elements=values).map(torch.from_numpy)


def least_error(group, importance):
    """The least weighted squared error of a group over all steps, fp64."""
    largest = group[np.abs(group).argmax()]
    if largest == 0:
        return 0.0
    errors = []
    for step in STEPS:
        codes = np.clip(np.rint(group * step / largest), -7, 8)
        if weight := (importance * codes * codes).sum():
            scale = (importance * group * codes).sum() / weight
            errors.append((importance * (group - scale * codes) ** 2).sum())
    return min(errors)


def test_the_best_step_of_every_group():
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(13, 3, 32, generator=generator)
    importance = torch.rand(96, generator=generator) + 0.1
    scales = best_scales(groups, importance, QUANTIZATIONS["q4f16_1"]).double().numpy()
    for row, of_row in zip(groups.double().numpy(), scales, strict=True):
        for group, scale, weight in zip(row, of_row, importance.double().view(3, 32).numpy(), strict=True):
            codes = np.clip(np.rint(group / scale), -7, 8)
            # Codes that are nearest to the solved scale are at least as good as those it was solved for.
            assert (weight * (group - scale * codes) ** 2).sum() <= least_error(group, weight) * (1 + 1e-5)


@pytest.mark.parametrize("name", W4)
@settings(max_examples=50)
@given(weight=weights(8.0))
def test_never_worse_than_nearest(name, weight):
    weight = torch.where(weight.abs() < 1e-2, torch.zeros(()), weight)  # far above the subnormals of fp16
    quantization, exact = QUANTIZATIONS[name], weight.double().numpy()
    nearest = w4.dequantize(*quantize(weight, quantization), quantization, weight.shape[1]).astype(np.float64)
    # Scales are rounded to the dtype they are stored in: fp16, or bf16 in shards of q4f32_1.
    rounding = 2.0**-8 if quantization.model_dtype == "float32" else 2.0**-10
    slack = (np.abs(exact) * rounding) ** 2
    assert ((restored(weight, name) - exact) ** 2).sum() <= ((nearest - exact) ** 2).sum() * 1.02 + slack.sum()


@pytest.mark.parametrize("name", W4)
def test_all_sixteen_codes_and_both_signs_are_used(name):
    weight = torch.randn(256, 64, generator=torch.Generator().manual_seed(1))
    codes, scales = search(weight, importance=torch.ones(64), quantization=QUANTIZATIONS[name])
    assert codes.unique().tolist() == list(range(16))
    assert (scales > 0).any() and (scales < 0).any()


@pytest.mark.parametrize("name", W4)
@given(data=st.data())
@settings(max_examples=30)
def test_what_is_on_the_grid_stays(name, data):
    """A matrix that codes and scales can express is restored, but for the rounding of a scale (bf16 in q4f32_1)."""
    rows = data.draw(st.integers(1, 9))
    codes = data.draw(npst.arrays(np.int64, (rows, 2, 32), elements=st.integers(-7, 8)))
    codes[..., 0] = data.draw(st.sampled_from([-7, 7, 8]))
    scales = data.draw(npst.arrays(np.float32, (rows, 2, 1), elements=st.sampled_from([0.25, -0.5, 0.0625, 3.0])))
    weight = torch.from_numpy((codes * scales).reshape(rows, 64))
    np.testing.assert_allclose(restored(weight, name), weight.numpy(), rtol=2.0**-8)


@pytest.mark.parametrize("name", W4)
def test_scales_are_as_shards_store_them(name):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(2))
    _, scales = search(weight, importance=torch.ones(64), quantization=QUANTIZATIONS[name])
    kept = scales.to(torch.bfloat16 if name == "q4f32_1" else torch.float16).to(scales.dtype)
    assert torch.equal(scales, kept)


def test_important_inputs_are_rounded_better():
    weight = torch.randn(200, 32, generator=torch.Generator().manual_seed(3))
    importance = torch.ones(32)
    importance[:4] = 100.0
    errors = [np.square(restored(weight, "q4f16_1", of) - weight.numpy()) for of in (torch.ones(32), importance)]
    assert errors[1][:, :4].mean() < 0.8 * errors[0][:, :4].mean()


@pytest.mark.parametrize("name", W4)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_checkpoint_dtype_and_any_block_of_rows_gives_the_same_bits(name, dtype):
    weight = torch.randn(37, 70, generator=torch.Generator().manual_seed(4)).to(torch.bfloat16).to(torch.float16)
    rounding = partial(search, importance=torch.ones(70), quantization=QUANTIZATIONS[name])
    packer = w4.Packer(37, 70, QUANTIZATIONS[name], rounding=rounding)
    for rows in weight.to(dtype if dtype != torch.bfloat16 else torch.float32).split([1, 20, 16]):
        packer.add(rows)
    for ours, whole in zip(packer.finish(), packed(weight, name), strict=True):
        np.testing.assert_array_equal(ours, whole)


@pytest.mark.parametrize("name", W4)
def test_zeros_dead_columns_and_an_outlier(name):
    weight = torch.randn(8, 96, generator=torch.Generator().manual_seed(5)) * 0.02
    weight[:, :32] = 0.0
    weight[:, 40] = 0.0
    weight[3, 70] = 1000.0
    result = restored(weight, name)
    assert np.isfinite(result).all()
    assert not result[:, :32].any() and not result[:, 40].any()
    assert result[3, 70] == pytest.approx(1000.0, rel=1e-2)


@pytest.mark.parametrize("name", ["q4f16_0", "q4f16_1"])
@pytest.mark.parametrize("magnitude", [1e-6, 3e-8, 1e-9])
def test_subnormal_scales_lose_at_most_the_weights(name, magnitude):
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(6)) * magnitude
    result = restored(weight, name)
    assert (np.abs(result - weight.numpy()) <= np.abs(weight.numpy()) + 2.0**-24).all()


@pytest.mark.parametrize(("name", "bad"), [("q4f16_0", 7e4), ("q4f16_1", float("nan")), ("q4f32_1", float("inf"))])
def test_what_the_models_dtype_cannot_hold_is_refused(name, bad):
    weight = torch.ones(4, 64)
    weight[2, 5] = bad
    with pytest.raises(EdgeTransactError, match="not finite in float"):
        packed(weight, name)


def test_weights_beyond_fp16_are_fine_in_q4f32_1():
    weight = torch.full((2, 32), 7e4)
    np.testing.assert_allclose(restored(weight, "q4f32_1"), 7e4, rtol=2.0**-8)
