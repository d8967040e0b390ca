"""NaN and infinity are seen wherever they are."""

import math

import pytest
import torch

from edge_transact.checkpoint.layers import is_finite


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("size", [1, 5, 64, 1003])
def test_one_value_that_is_not_finite_is_found(dtype: torch.dtype, bad: float, size: int) -> None:
    numbers = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)
    assert is_finite(numbers)
    for place in {0, size // 2, size - 1}:
        spoilt = numbers.clone()
        spoilt[place] = bad
        assert not is_finite(spoilt)


def test_integers_and_empty_tensors_are_finite() -> None:
    assert is_finite(torch.arange(3)) and is_finite(torch.empty(0, 4))
