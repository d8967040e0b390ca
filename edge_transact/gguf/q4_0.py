"""Q4_0, GGUF's 4-bit format, and MLC's are one grid: blocks of 32 weights along the inputs, each with one fp16 scale.

MLC's weight is ``(code - 7) * scale``, and Q4_0's ``(code - 8) * scale``. ``15 - code`` and ``-scale`` convert exactly:
``(15 - code) - 8 = -(code - 7)``. A block is 18 bytes: the scale, then 16 bytes with the codes of the first 16 weights
in their low halves and of the last 16 in their high ones (``block_q4_0`` in ggml's ``ggml-common.h``).
"""

from __future__ import annotations

import numpy as np

from edge_transact.errors import EdgeTransactError

BLOCK_WEIGHTS, BLOCK_BYTES = 32, 18

GRID = 4, BLOCK_WEIGHTS, 7
"""`Quantization.grid` of the formats that convert."""


def pack(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """MLC's codes (uint8 ``[rows, groups, 32]``) and scales (float ``[rows, groups]``) as uint8 ``[rows, groups, 18]``.

    An `EdgeTransactError` if a scale isn't exact in fp16.
    """
    with np.errstate(over="ignore"):
        stored = (-scales).astype("<f2")
    if not np.array_equal(stored, -scales):
        raise EdgeTransactError(
            "a scale is not a number that fp16 holds exactly, as Q4_0 stores it",
            fix="Build with --quant q4f16_0, whose scales are fp16.",
        )
    blocks = np.empty((*scales.shape, BLOCK_BYTES), np.uint8)
    blocks[..., :2] = stored[..., None].view(np.uint8)
    theirs, half = 15 - codes, BLOCK_WEIGHTS // 2
    blocks[..., 2:] = theirs[..., :half] | theirs[..., half:] << 4
    return blocks


def unpack(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `pack`. Scales are float16."""
    scales = -np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0]
    packed = blocks[..., 2:]
    return 15 - np.concatenate((packed & 0xF, packed >> 4), axis=-1), scales
