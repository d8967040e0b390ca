"""The quantizations that we speak: MLC-LLM's own names and formats.

``q4f16_0``: 4-bit weights, fp16 elsewhere, linears stored input-major (KN); the one that is fast on Adreno.
``q4f16_1``, ``q4f32_1``: the same output-major (NK), with fp16 or fp32 elsewhere. ``q0f16``, ``q0f32``: none.
The bits are specified in MLC-LLM's ``quantization/group_quantization.py`` and packed in `edge_transact.weights.w4`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edge_transact.errors import UsageError, did_you_mean

GROUP_SIZE = 32
"""Weights that share one scale, along the input features."""

VALUES_PER_WORD = 8
"""4-bit values in a uint32."""

WORDS_PER_GROUP = GROUP_SIZE // VALUES_PER_WORD

ZERO_POINT = 7
"""What is subtracted from a 4-bit value before it is scaled."""


@dataclass(frozen=True)
class Quantization:
    """One of MLC's quantizations.

    Attributes:
        name: As in ``mlc-chat-config.json``.
        model_dtype: Activations, KV cache, scales and unquantized weights at run time.
        bits: 4, or `None` when weights stay in `model_dtype`.
        linear_layout: ``NK`` (output features first) or ``KN`` (input first); embeddings are always ``NK``.
    """

    name: str
    model_dtype: Literal["float16", "float32"]
    bits: int | None
    linear_layout: Literal["NK", "KN"] = "NK"

    @property
    def model_dtype_bytes(self) -> int:
        """Bytes of one activation or KV value."""
        return 2 if self.model_dtype == "float16" else 4

    @property
    def stored_dtype_bytes(self) -> int:
        """Bytes on disk of one unquantized value: MLC stores fp32 as bf16, so always 2."""
        return 2


QUANTIZATIONS: dict[str, Quantization] = {
    quantization.name: quantization
    for quantization in (
        Quantization("q0f16", "float16", None),
        Quantization("q0f32", "float32", None),
        Quantization("q4f16_0", "float16", 4, "KN"),
        Quantization("q4f16_1", "float16", 4),
        Quantization("q4f32_1", "float32", 4),
    )
}


def default_quantization(targets: Sequence[str]) -> str:
    """The quantization of a build for these targets: what is fast on phones' GPUs where they are among them."""
    return "q4f16_0" if "android" in targets else "q4f32_1"


def get_quantization(name: str) -> Quantization:
    """The quantization of that name.

    Raises:
        UsageError: There is none; the message lists those that there are.
    """
    if name not in QUANTIZATIONS:
        raise UsageError(f"unknown quantization {name!r}", fix=did_you_mean(name, QUANTIZATIONS))
    return QUANTIZATIONS[name]
