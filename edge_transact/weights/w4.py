"""4-bit group quantization in the format of MLC-LLM's ``quantization/group_quantization.py``.

Groups of 32 weights along the input features share one scale, and a weight is ``(code - 7) * scale`` with a 4-bit code.
Eight codes make a uint32, the first in its lowest bits; a ragged last group is padded. Linear weights are stored
output-major (NK), or for ``q4f16_0`` input-major (KN): both tensors transposed. Embeddings are output-major.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch

from edge_transact.errors import EdgeTransactError
from edge_transact.quantization import Quantization

RoundRows = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
"""Rounds rows ``[rows, in]`` of any float dtype, given them and the number of the first one in its matrix.

Returns codes, int8 ``[rows, 32 * groups]`` from 0 to 15 (ignored beyond a row's end), and scales ``[rows, groups]`` in
the model's dtype.
"""

_CHUNK_WEIGHTS = 1 << 18
"""Weights that a thread packs at once: temporaries fit the CPU's cache, and `rounding.search` fills all its lanes."""


class Packer:
    """Packs a weight ``[out, in]`` in blocks of rows, never in memory as a whole, rounded to `nearest` by default."""

    def __init__(
        self,
        out_features: int,
        in_features: int,
        quantization: Quantization,
        *,
        embedding: bool = False,
        rounding: RoundRows | None = None,
    ) -> None:
        assert quantization.bits == 4, "the packing below is for nibbles"
        groups = math.ceil(in_features / quantization.group_size)
        dtype = getattr(torch, quantization.model_dtype)
        self._quantization = quantization
        self._round = rounding or partial(nearest, quantization=quantization)
        self._rows = 0
        self._input_major = quantization.linear_layout == "KN" and not embedding
        words, scales = (out_features, groups * quantization.words_per_group), (out_features, groups)
        # int32, because torch can't transpose uint32.
        self._words = torch.empty(words[::-1] if self._input_major else words, dtype=torch.int32)
        self._scales = torch.empty(scales[::-1] if self._input_major else scales, dtype=dtype)

    def add(self, rows: torch.Tensor) -> None:
        """Pack the next rows, ``[n, in_features]``."""
        chunk = max(1, _CHUNK_WEIGHTS // rows.shape[1])
        starts = range(0, len(rows), chunk)
        first, self._rows = self._rows, self._rows + len(rows)

        def pack(start: int) -> None:
            part = rows[start : start + chunk]
            codes, scales = self._round(part, first + start)
            words = _words(codes, part.shape[1])
            place = slice(first + start, first + start + len(part))
            if self._input_major:
                self._words[:, place], self._scales[:, place] = words.T, scales.T
            else:
                self._words[place], self._scales[place] = words, scales

        _each(pack, starts)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """`q_weight`, uint32 ``[out, 4 * ceil(in / 32)]``, and `q_scale`, the model's dtype ``[out, ceil(in / 32)]``.

        Both are transposed for a linear weight in the KN layout. An `EdgeTransactError` if a weight isn't finite.
        """
        if not torch.isfinite(self._scales).all():
            raise not_finite(self._quantization)
        return self._words.numpy().view("<u4"), self._scales.numpy()


def not_finite(quantization: Quantization) -> EdgeTransactError:
    return EdgeTransactError(
        f"a weight is not finite in {quantization.model_dtype}",
        fix="Check the checkpoint for NaN and infinite values, or use q4f32_1 for values above 65504.",
    )


def _each(work: Callable[[int], None], starts: Sequence[int]) -> None:
    """Call `work` for every start, in as many threads as torch has; its own would synchronize after each operation."""
    threads = torch.get_num_threads()
    if min(threads, len(starts)) <= 1:
        for start in starts:
            work(start)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(work, starts):
                pass
    finally:
        torch.set_num_threads(threads)  # new threads inherit the number that was set last


def nearest(rows: torch.Tensor, first: int = 0, *, quantization: Quantization) -> tuple[torch.Tensor, torch.Tensor]:
    """Round to the nearest of 15 values, as MLC does; the `RoundRows` of ``--rounding nearest``.

    ``scale = max|w| / 7`` and ``code = clip(round(w / scale + 7), 0, 14)``, half to even, with weight, scale, quotient
    and sum in the model's dtype. A group of zeros has scale 0 and code 0.
    """
    dtype, zero_point = getattr(torch, quantization.model_dtype), quantization.zero_point

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x if dtype == torch.float32 else x.to(dtype).float()

    # fp16 arithmetic equals fp32 arithmetic with each result rounded to fp16, which is faster. bf16 becomes fp16 faster
    # through fp32, too.
    values = rounded(grouped(rows.float(), quantization))
    scales = (torch.maximum(values.amax(-1), -values.amin(-1)) / zero_point).to(dtype)
    shifted = rounded(rounded(values / scales.float()[..., None]).add_(zero_point))
    if not scales.all():
        shifted.nan_to_num_(nan=0.0)  # 0 / 0, in a group of zeros
    # int8: the conversion has a vector instruction, and that to uint8 has none.
    return shifted.round_().clamp_(0, 2 * zero_point).to(torch.int8).flatten(start_dim=1), scales


def grouped(rows: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """Rows ``[rows, in]`` as groups ``[rows, groups, 32]``, the last one padded with zeros."""
    size = quantization.group_size
    padding = -rows.shape[1] % size
    return (torch.nn.functional.pad(rows, (0, padding)) if padding else rows).view(len(rows), -1, size)


def _words(codes: torch.Tensor, in_features: int) -> torch.Tensor:
    """Pack int8 codes ``[rows, 32 * groups]`` into int32 words ``[rows, 4 * groups]``."""
    if in_features < codes.shape[1]:
        codes[:, in_features:] = 0
    # Both codes of a byte, the first in its low half: an int16 holds them eight bits apart.
    pairs = codes.view(torch.int16)
    return (pairs | pairs >> 4).to(torch.uint8).view(torch.int32)


def dequantize(
    q_weight: np.ndarray,
    q_scale: np.ndarray,
    quantization: Quantization,
    in_features: int,
    *,
    embedding: bool = False,
) -> np.ndarray:
    """The weight that a `Packer` packed, ``[out, in_features]`` in the model's dtype."""
    q_weight, q_scale = output_major(q_weight, q_scale, quantization, embedding=embedding)
    scales = torch.from_numpy(q_scale)
    levels = torch.from_numpy(codes(q_weight, quantization)).to(scales.dtype) - quantization.zero_point
    return (levels * scales[..., None]).view(q_scale.shape[0], -1)[:, :in_features].contiguous().numpy()


def output_major(
    q_weight: np.ndarray, q_scale: np.ndarray, quantization: Quantization, *, embedding: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """A `Packer`'s result with output features first: words ``[out, 4 * groups]``, scales ``[out, groups]``."""
    if quantization.linear_layout == "KN" and not embedding:
        return np.ascontiguousarray(q_weight.T), np.ascontiguousarray(q_scale.T)
    return q_weight, q_scale


def codes(words: np.ndarray, quantization: Quantization) -> np.ndarray:
    """The codes of output-major words: uint8 ``[out, groups, 32]``, 0 beyond a row's end."""
    packed = words.view(np.uint8)
    return np.stack((packed & 0xF, packed >> 4), axis=-1).reshape(len(words), -1, quantization.group_size)
