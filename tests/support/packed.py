"""Weights packed with every code and with scales of both signs, as MLC's own rounding never packs them."""

from functools import partial

import numpy as np
import torch

from edge_transact.quantization import Quantization
from edge_transact.rounding.search import search
from edge_transact.weights import w4


def packed(
    weight: torch.Tensor, quantization: Quantization, *, embedding: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """``q_weight`` and ``q_scale`` of a weight ``[out, in]``, with searched scales."""
    rounding = partial(search, importance=torch.ones(weight.shape[1]), quantization=quantization)
    words, scales = w4.quantize(weight, quantization, embedding=embedding, rounding=rounding)
    assert (scales < 0).any() and (scales > 0).any()
    assert any((words >> shift & 15 == 15).any() for shift in range(0, 32, 4))
    return words, scales
