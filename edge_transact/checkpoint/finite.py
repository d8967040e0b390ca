"""Whether tensors are finite, asked of every weight and every activation that passes through."""

from __future__ import annotations

import math

import torch


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor, of any shape and dtype, has neither NaN nor infinity."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # One pass over it and no copy: both ends are NaN if one value is.
    return all(map(math.isfinite, tensor.aminmax()))
