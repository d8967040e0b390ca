"""The heads that attention kernels are compiled for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_transact.costs import PAGE_SIZE

__all__ = ["PAGE_SIZE", "Attention", "inverse_frequencies", "lanes_for"]


@dataclass(frozen=True)
class Attention:
    """The heads of one cache layer, the dtype of queries, cache and output, and the fp32 lanes of a vector."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    dtype: str
    lanes: int

    @property
    def q_per_kv(self) -> int:
        """Query heads per KV head."""
        return self.num_attention_heads // self.num_key_value_heads

    @property
    def vectors(self) -> int:
        """Vectors of a head."""
        return self.head_dim // self.lanes

    @property
    def together(self) -> int:
        """Query heads of one KV head that decode computes together, converting each key to fp32 once."""
        # With 512 bits, their outputs fill half of the 32 registers.
        most = 16 if self.lanes == 16 else 48
        fitting = [n for n in range(1, self.q_per_kv + 1) if self.q_per_kv % n == 0 and n * self.vectors <= most]
        return max(fitting, default=1)

    @property
    def vectors_together(self) -> int:
        """Vectors of a value that decode weighs in one pass over the keys, for sums that stay in registers.

        AVX2 has 16 registers, AVX-512 and Arm have 32; the vectors and a numerator need some, too.
        """
        most = {16: 16, 8: 9, 4: 12}[self.lanes]
        fitting = [n for n in range(1, self.vectors + 1) if self.vectors % n == 0 and n * self.together <= most]
        return max(fitting, default=1)


def lanes_for(head_dim: int, most: int) -> int | None:
    """The most lanes, up to `most`, of vectors that come in pairs in a head; `None` if none do."""
    return next((lanes for lanes in (16, 8, 4) if lanes <= most and head_dim % (2 * lanes) == 0), None)


def inverse_frequencies(head_dim: int, theta: float, scaling: Mapping[str, Any]) -> np.ndarray:
    """RoPE's inverse frequencies, float32 ``[head_dim / 2]``, with Llama 3's scaling if the configuration has it.

    The formulas are those of transformers' ``modeling_rope_utils.py``.
    """
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling.get("rope_type") == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        share = np.clip((turns - low) / (high - low), 0, 1)
        frequencies = (1 - share) * frequencies / scaling["factor"] + share * frequencies
    return frequencies.astype(np.float32)
