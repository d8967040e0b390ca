"""The supported quantizations, with MLC-LLM's names and formats.

``q4f16_0`` has 4-bit weights, stored input-major (KN), and fp16 elsewhere; it is the fast one on Adreno. ``q4f16_1``
and ``q4f32_1`` are output-major (NK), with fp16 or fp32 elsewhere. ``q0f16`` and ``q0f32`` don't quantize.
MLC-LLM's ``quantization/group_quantization.py`` specifies the bits; `edge_transact.weights.w4` packs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_transact.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Quantization:
    """One of MLC's quantizations.

    Attributes:
        name: MLC's name, as in ``mlc-chat-config.json``.
        model_dtype: The dtype of activations, KV cache, scales and unquantized weights at run time.
        bits: Bits of a stored value; `None` if weights have `model_dtype`, and then the next two are 0.
        group_size: Weights that share one scale, along the input features.
        zero_point: The stored value of weight 0, subtracted before scaling; MLC's rounding has no larger magnitude.
        linear_layout: ``NK`` (output features first) or ``KN`` (input first); embeddings are always ``NK``.
    """

    name: str
    model_dtype: Literal["float16", "float32"]
    bits: int | None = None
    group_size: int = 0
    zero_point: int = 0
    linear_layout: Literal["NK", "KN"] = "NK"

    @property
    def model_dtype_bytes(self) -> int:
        return 2 if self.model_dtype == "float16" else 4

    @property
    def values_per_word(self) -> int:
        """Stored values in a uint32."""
        assert self.bits
        return 32 // self.bits

    @property
    def words_per_group(self) -> int:
        return self.group_size // self.values_per_word

    @property
    def levels(self) -> tuple[int, int]:
        """The least and the largest weight, in scales."""
        assert self.bits
        return -self.zero_point, 2**self.bits - 1 - self.zero_point

    @property
    def grid(self) -> tuple[int | None, int, int]:
        """What stored values mean, in any layout and dtype: bits, group size and zero point."""
        return self.bits, self.group_size, self.zero_point


QUANTIZATIONS: dict[str, Quantization] = {
    quantization.name: quantization
    for quantization in (
        Quantization("q0f16", "float16"),
        Quantization("q0f32", "float32"),
        Quantization("q4f16_0", "float16", 4, 32, 7, "KN"),
        Quantization("q4f16_1", "float16", 4, 32, 7),
        Quantization("q4f32_1", "float32", 4, 32, 7),
    )
}


def default_quantization(targets: Sequence[str]) -> str:
    """The default quantization of a build: the fast one on phones' GPUs if ``android`` is a target."""
    return "q4f16_0" if "android" in targets else "q4f32_1"


def get_quantization(name: str) -> Quantization:
    """The quantization called `name`; raises `UsageError` if there is none."""
    if name not in QUANTIZATIONS:
        raise UsageError(f"unknown quantization {name!r}", fix=did_you_mean(name, QUANTIZATIONS))
    return QUANTIZATIONS[name]
