"""GPTQ against its definition, column by column, and what it is for: a smaller error of the output."""

import numpy as np
import pytest
import torch

from edge_transact.quantization import QUANTIZATIONS
from edge_transact.rounding.gptq import GPTQ, SHRINKAGE
from edge_transact.rounding.search import search
from edge_transact.rounding.store import dequantized
from edge_transact.weights import w4
from tests.support.packed import quantize

W4 = [name for name, quantization in QUANTIZATIONS.items() if quantization.bits == 4]


def inputs(tokens, size, seed=0):
    """Correlated inputs, ``[tokens, size]``."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator) / size**0.5 + torch.eye(size)
    return torch.randn(tokens, size, generator=generator) @ mixing


def matrix(rows, size, seed=1):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def output_error(weight, rounded, x):
    return ((rounded - weight) @ x.T).square().mean().item()


@pytest.mark.parametrize("name", W4)
@pytest.mark.parametrize("size", [64, 70, 20])
def test_the_output_is_nearer_than_with_search(name, size):
    quantization, x, weight = QUANTIZATIONS[name], inputs(1000, size), matrix(50, size)
    by_text = dequantized(*GPTQ(x.T @ x, len(x), quantization)(weight), size, quantization)
    alone = dequantized(*search(weight, importance=torch.ones(size), quantization=quantization), size, quantization)
    unseen = inputs(1000, size, seed=0)[500:]
    assert output_error(weight, by_text, unseen) < 0.75 * output_error(weight, alone, unseen)


def test_independent_inputs_leave_nothing_to_make_up_for():
    """With a diagonal Gram matrix every weight gets its nearest code."""
    weight = matrix(40, 64)
    codes, scales = GPTQ(torch.diag(torch.rand(64) + 0.5), 100, QUANTIZATIONS["q4f16_1"])(weight)
    nearest = (weight.view(40, 2, 32) / scales.float()[..., None]).round().clamp(-7, 8) + 7
    np.testing.assert_array_equal(codes, nearest.flatten(start_dim=1))


def test_each_error_is_made_up_for_by_the_columns_that_follow():
    """For the codes of all columns before it, a column's code is nearest to the best value that the rest allows."""
    size, x, weight = 32, inputs(300, 32).double(), matrix(5, 32).double()
    gram = x.T @ x
    codes, scales = GPTQ(gram.float(), len(x), QUANTIZATIONS["q4f32_1"])(weight.float())
    rounded = dequantized(codes, scales, size, QUANTIZATIONS["q4f32_1"]).double()
    shrunk = (1 - SHRINKAGE) * gram + SHRINKAGE * gram.diagonal().diag()
    order = gram.diagonal().argsort(descending=True)
    for position in range(size):
        done, rest = order[:position], order[position:]
        # The rest of the row that minimizes the shrunk error of the output, given what is rounded already.
        error = (rounded - weight)[:, done]
        best = weight[:, rest] - error @ shrunk[done][:, rest] @ shrunk[rest][:, rest].inverse()
        steps = best[:, 0] / scales[:, 0]
        code = steps.round().clamp(-7, 8)
        near_a_tie = ((steps - steps.floor()) - 0.5).abs() < 1e-3
        assert ((code + 7 == codes[:, order[position]]) | near_a_tie).all()


@pytest.mark.parametrize("name", W4)
def test_rows_do_not_depend_on_each_other(name):
    x, weight = inputs(200, 64), matrix(9, 64)
    gptq = GPTQ(x.T @ x, len(x), QUANTIZATIONS[name])
    whole, parts = gptq(weight), [gptq(rows) for rows in weight.split([1, 5, 3])]
    for one, many in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(one, torch.cat(many))


def test_inputs_that_never_occur_and_no_text_at_all():
    weight = matrix(8, 64)
    x = inputs(100, 64)
    x[:, 10:40] = 0.0
    for gram in (x.T @ x, torch.zeros(64, 64)):
        codes, scales = GPTQ(gram, len(x), QUANTIZATIONS["q4f16_1"])(weight)
        rounded = dequantized(codes, scales, 64, QUANTIZATIONS["q4f16_1"])
        assert torch.isfinite(scales).all() and (rounded - weight).abs().max() < 1.0


def test_an_outlier_a_group_of_zeros_and_subnormal_scales():
    x, weight = inputs(1000, 96), 0.02 * matrix(8, 96)
    weight[3, 70], weight[:, :32], weight[5] = 1000.0, 0.0, 1e-8 * weight[5]
    codes, scales = GPTQ(x.T @ x, len(x), QUANTIZATIONS["q4f16_0"])(weight)
    rounded = dequantized(codes, scales, 96, QUANTIZATIONS["q4f16_0"])
    assert torch.isfinite(scales).all() and rounded[3, 70] == pytest.approx(1000.0, rel=1e-2)
    assert output_error(weight[[0, 1, 2]], rounded[[0, 1, 2]], x) < 0.02 * (weight[[0, 1, 2]] @ x.T).square().mean()
    assert rounded[5].abs().max() <= 2.0**-24 * 8


def test_sums_that_rounding_has_made_indefinite():
    x = inputs(500, 64)
    x[:, 8] = x[:, 7]
    gram = x.T @ x
    gram[7, 8] = gram[8, 7] = 1.05 * gram[7, 7]
    assert torch.linalg.eigvalsh(gram).min() < 0
    codes, scales = GPTQ(gram, len(x), QUANTIZATIONS["q4f16_1"])(matrix(8, 64))
    assert torch.isfinite(scales).all() and codes.min() >= 0 and codes.max() <= 15
    with pytest.raises(ValueError, match="factorized"):
        GPTQ(torch.full((32, 32), torch.nan), 100, QUANTIZATIONS["q4f16_1"])


@pytest.mark.parametrize("tokens", [20, 100, 1000])
def test_text_does_no_harm_however_short(tokens):
    """On other text, rounding with text is never worse than without."""
    x, weight = inputs(tokens + 2000, 96), matrix(64, 96)
    quantization, fitted, unseen = QUANTIZATIONS["q4f16_0"], x[:tokens], x[tokens:]
    rounded = dequantized(*GPTQ(fitted.T @ fitted, tokens, quantization)(weight), 96, quantization)
    alone = dequantized(*search(weight, importance=torch.ones(96), quantization=quantization), 96, quantization)
    assert output_error(weight, rounded, unseen) < 1.02 * output_error(weight, alone, unseen)


def test_codes_pack_like_any_others():
    x, weight = inputs(200, 70), matrix(12, 70)
    quantization = QUANTIZATIONS["q4f16_0"]
    gptq = GPTQ(x.T @ x, len(x), quantization)
    packed = quantize(weight, quantization, rounding=gptq)
    np.testing.assert_allclose(
        w4.dequantize(*packed, quantization, 70).astype(np.float32),
        dequantized(*gptq(weight), 70, quantization),
        rtol=1e-3,
    )


def test_blocks_of_columns_and_halves_of_the_factor_change_nothing(monkeypatch):
    x, weight, quantization = inputs(400, 224), matrix(6, 224), QUANTIZATIONS["q4f16_1"]
    at_once = GPTQ(x.T @ x, len(x), quantization)(weight)
    monkeypatch.setattr("edge_transact.rounding.gptq.INVERTED_AT_ONCE", 9)
    monkeypatch.setattr("edge_transact.rounding.gptq.BLOCK_GROUPS", 2)
    in_parts = GPTQ(x.T @ x, len(x), quantization)(weight)
    assert (in_parts[0] != at_once[0]).float().mean() < 0.01, "a sum in another order may decide a tie"
    np.testing.assert_allclose(in_parts[1].float(), at_once[1].float(), rtol=2e-2)
