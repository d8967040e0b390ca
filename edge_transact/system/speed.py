"""How fast this machine computes."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MEASURED_S = 0.2
"""How long products are repeated."""

ROWS, INPUTS, OUTPUTS = 128, 1024, 1024
"""The sizes of the product: those of some tokens and a small model's projection."""


def matmul_flops(dtype: torch.dtype, device: torch.device) -> float:
    """FLOPs a second of matrix products in torch now, with as many threads as torch uses: others share the machine.

    What others take is measured in fp32 and counts alike for all dtypes of a CPU. So the ratio between two dtypes,
    which the shares of a run's steps depend on, is the same in every run.
    """
    import torch

    fastest_s, mean_s = _product_s(dtype, device)
    if device.type == "cpu":
        alone_s, shared_s = _product_s(torch.float32, device)
        mean_s = fastest_s * shared_s / alone_s
    return 2 * ROWS * INPUTS * OUTPUTS / mean_s


def peak_flops(dtype: torch.dtype, device: torch.device) -> float:
    """The most FLOPs a second that a matrix product in torch reaches now, with as many threads as torch uses."""
    return 2 * ROWS * INPUTS * OUTPUTS / _measured_s(dtype, device)[0]


@cache
def _product_s(dtype: torch.dtype, device: torch.device) -> tuple[float, float]:
    return _measured_s(dtype, device)


def _measured_s(dtype: torch.dtype, device: torch.device) -> tuple[float, float]:
    """The seconds of the fastest product, and of one in the mean."""
    import torch

    inputs = torch.ones(ROWS, INPUTS, dtype=dtype, device=device)
    weight = torch.ones(OUTPUTS, INPUTS, dtype=dtype, device=device)

    def product_s() -> float:
        started = time.perf_counter()
        torch.nn.functional.linear(inputs, weight)[0, 0].item()
        return time.perf_counter() - started

    product_s()  # the first one starts threads
    took_s: list[float] = []
    while sum(took_s) < MEASURED_S:
        took_s.append(product_s())
    return min(took_s), sum(took_s) / len(took_s)


REFERENCE_FLOPS = 70e9
"""FLOPs a second of a matrix product in fp32, on the machine where seconds in forecasts were measured."""


def slowness() -> float:
    """How many times as long as there work takes that isn't made of matrix products."""
    import torch

    return REFERENCE_FLOPS / matmul_flops(torch.float32, torch.device("cpu"))
