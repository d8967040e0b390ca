"""Where models are computed on this machine, and in which dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_transact.system.cpu import has_fast_bf16

if TYPE_CHECKING:
    import torch


def compute_device() -> torch.device:
    """The device that computes models: a GPU if there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def is_bf16_fast(device: torch.device) -> bool:
    """Whether a device multiplies bf16 faster than fp32. NVIDIA's GPUs before Ampere only emulate it."""
    import torch

    return has_fast_bf16() if device.type == "cpu" else torch.cuda.is_bf16_supported(including_emulation=False)
