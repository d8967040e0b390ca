"""Weights packed with every code and with scales of both signs, unlike by MLC's own rounding; and their products."""

from functools import partial

import numpy as np
import torch

from edge_transact.compiler.matmul import Matmul
from edge_transact.quantization import QUANTIZATIONS, Quantization
from edge_transact.rounding.search import search
from edge_transact.weights import w4

W4F16, W4F32 = QUANTIZATIONS["q4f16_1"], QUANTIZATIONS["q4f32_1"]
"""The quantizations of matmuls with scales in half and in single precision, in either layout."""


def quantize(
    weight: torch.Tensor, quantization: Quantization, *, embedding: bool = False, rounding: w4.RoundRows | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The result of a `w4.Packer` for a weight ``[out, in]``."""
    packer = w4.Packer(*weight.shape, quantization, embedding=embedding, rounding=rounding)
    packer.add(weight)
    return packer.finish()


ACTIVATED = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu_pytorch_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


def packed(
    weight: torch.Tensor, quantization: Quantization, *, embedding: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """``q_weight`` and ``q_scale`` of a weight ``[out, in]``, with searched scales."""
    rounding = partial(search, importance=torch.ones(weight.shape[1]), quantization=quantization)
    words, scales = quantize(weight, quantization, embedding=embedding, rounding=rounding)
    assert (scales < 0).any() and (scales > 0).any()
    assert any((words >> shift & 15 == 15).any() for shift in range(0, 32, 4))
    return words, scales


def product(
    matmul: Matmul,
    x: np.ndarray,
    matrix: np.ndarray,
    norm: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    residual: np.ndarray | None = None,
) -> np.ndarray:
    """The result of a matmul in double precision; `matrix` is ``[in, out]``."""
    wanted = x.astype(np.float64)
    if norm is not None:
        wanted = wanted / np.sqrt((wanted**2).mean(-1, keepdims=True) + matmul.norm_eps) * norm
    wanted = wanted @ matrix + (0 if bias is None else bias)
    if matmul.gated:
        gate, up = np.split(wanted, 2, axis=-1)
        wanted = ACTIVATED[matmul.activation](gate) * up
    return wanted + (0 if residual is None else residual)
