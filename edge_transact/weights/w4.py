"""Four-bit group quantization, bit for bit as MLC-LLM packs it (``quantization/group_quantization.py``).

Groups of 32 weights along the input features share one scale::

    scale = max|w| / 7                        in the model's dtype
    q     = clip(round(w / scale + 7), 0, 14) half to even; the quotient and the sum are rounded to the model's dtype
    w     ~ (q - 7) * scale

Eight values make a uint32, the first in its lowest bits. A ragged last group is filled with q = 0; a group of zeros
has scale 0 and q = 0. Linear weights are stored output-major (NK), or, for ``q4f16_0``, input-major (KN): both tensors
transposed. Embeddings are output-major always.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import GROUP_SIZE, Quantization

MAX_Q = 7
"""The largest magnitude of a signed value; stored values are shifted up by it."""

_CHUNK_WEIGHTS = 1 << 18
"""Weights that are packed at once: few enough for the temporaries to stay in the cache."""


def quantize(
    weight: torch.Tensor, quantization: Quantization, *, embedding: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Pack a weight.

    Args:
        weight: ``[out, in]``, any float dtype; it is cast to the model's dtype first, as MLC does.
        quantization: A 4-bit one.
        embedding: The weight is an embedding, which keeps the output-major layout.

    Returns:
        `q_weight`, uint32 ``[out, 4 * ceil(in / 32)]``, and `q_scale`, the model's dtype ``[out, ceil(in / 32)]``; both
        transposed for a linear weight in the KN layout.

    Raises:
        EdgeTransactError: A weight is not finite in the model's dtype.
    """
    out_features, in_features = weight.shape
    groups = math.ceil(in_features / GROUP_SIZE)
    dtype = getattr(torch, quantization.model_dtype)
    packed = torch.empty(out_features, groups * GROUP_SIZE // 2, dtype=torch.uint8)
    scales = torch.empty(out_features, groups, dtype=dtype)
    rows = max(1, _CHUNK_WEIGHTS // in_features)
    for start in range(0, out_features, rows):
        chunk = slice(start, start + rows)
        packed[chunk], scales[chunk] = _quantize_rows(weight[chunk], groups, dtype)
    if not torch.isfinite(scales).all():
        raise EdgeTransactError(
            f"a weight is not finite in {quantization.model_dtype}",
            fix="Check the checkpoint for NaN and infinite values, or use q4f32_1 for values above 65504.",
        )
    q_weight, q_scale = packed.numpy().view("<u4"), scales.numpy()
    if quantization.linear_layout == "KN" and not embedding:
        return np.ascontiguousarray(q_weight.T), np.ascontiguousarray(q_scale.T)
    return q_weight, q_scale


def _quantize_rows(weight: torch.Tensor, groups: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows ``[rows, in]`` to bytes of two values ``[rows, 16 * groups]`` and scales ``[rows, groups]``."""
    rows, in_features = weight.shape
    # fp16 arithmetic is fp32 arithmetic with each result rounded to fp16, and runs faster that way.
    values = weight.to(dtype).float()
    padding = groups * GROUP_SIZE - in_features
    if padding:
        values = torch.nn.functional.pad(values, (0, padding))
    values = values.view(rows, groups, GROUP_SIZE)
    scales = (torch.maximum(values.amax(-1), -values.amin(-1)) / MAX_Q).to(dtype)
    quotients = (values / scales.float()[..., None]).to(dtype).float()
    shifted = quotients.add_(MAX_Q).to(dtype).float()
    if not scales.all():
        shifted.nan_to_num_(nan=0.0)  # 0 / 0, in a group of zeros
    q = shifted.round_().clamp_(0, 2 * MAX_Q).to(torch.uint8).view(rows, groups * GROUP_SIZE)
    if padding:
        q[:, in_features:] = 0
    pairs = q.view(torch.int16)
    return (pairs | pairs >> 4).to(torch.uint8), scales


def dequantize(
    q_weight: np.ndarray,
    q_scale: np.ndarray,
    quantization: Quantization,
    in_features: int,
    *,
    embedding: bool = False,
) -> np.ndarray:
    """Unpack a weight.

    Args:
        q_weight, q_scale: As `quantize` returns them.
        quantization: The one that they were packed with.
        in_features: Weights a row; the packed form doesn't tell, when the last group is ragged.
        embedding: As for `quantize`.

    Returns:
        ``[out, in_features]``, in the model's dtype.
    """
    if quantization.linear_layout == "KN" and not embedding:
        q_weight, q_scale = np.ascontiguousarray(q_weight.T), np.ascontiguousarray(q_scale.T)
    packed = torch.from_numpy(q_weight.view(np.uint8))
    q = torch.stack((packed & 0xF, packed >> 4), dim=-1).view(*q_scale.shape, GROUP_SIZE)
    scales = torch.from_numpy(q_scale)
    weight = (q.to(scales.dtype) - MAX_Q) * scales[..., None]
    return weight.view(q_scale.shape[0], -1)[:, :in_features].contiguous().numpy()
