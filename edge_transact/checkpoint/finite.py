"""The check for NaN and infinite values that every weight and activation passes."""

from __future__ import annotations

import math

import torch

from edge_transact.errors import EdgeTransactError

REPAIR = "Its weights are damaged, or overflow: convert them to float32 or download them again."


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether a tensor of any shape and dtype has neither NaN nor infinite values."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # One pass and no copy: minimum and maximum are NaN if any value is.
    return all(map(math.isfinite, tensor.aminmax()))


def checked(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The tensor; raises `EdgeTransactError` with its name if it holds NaN or infinity."""
    if not is_finite(tensor):
        raise EdgeTransactError(f"{name} holds NaN or infinity", fix=REPAIR)
    return tensor
