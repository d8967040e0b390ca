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


@cache
def matmul_flops(dtype: torch.dtype, device: torch.device) -> float:
    """FLOPs a second of matrix products in torch now, with as many threads as torch uses: others share the machine."""
    import torch

    inputs = torch.ones(ROWS, INPUTS, dtype=dtype, device=device)
    weight = torch.ones(OUTPUTS, INPUTS, dtype=dtype, device=device)

    def product() -> None:
        torch.nn.functional.linear(inputs, weight)[0, 0].item()

    product()  # the first one starts threads
    count, started = 0, time.perf_counter()
    while (took_s := time.perf_counter() - started) < MEASURED_S or not count:
        product()
        count += 1
    return 2 * ROWS * INPUTS * OUTPUTS * count / took_s


REFERENCE_FLOPS = 70e9
"""FLOPs a second of a matrix product in fp32, on the machine where seconds in forecasts were measured."""


def slowness() -> float:
    """How many times as long as there work takes that isn't made of matrix products."""
    import torch

    return REFERENCE_FLOPS / matmul_flops(torch.float32, torch.device("cpu"))
