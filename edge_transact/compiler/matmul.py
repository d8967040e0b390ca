"""What one kernel of ours computes, whatever device it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge_transact.quantization import WORDS_PER_GROUP


@dataclass(frozen=True)
class Matmul:
    """A kind of product, and what is done in the same pass. Its sizes are the tensors': one kernel serves all widths.

    Attributes:
        layout: ``NK``: weight ``[N, 4 G]``, scale ``[N, G]``; ``KN``: ``[4 G, N]``, ``[G, N]``; ``G = ceil(K / 32)``.
        dtype: Of the activations.
        scale_dtype: Of the scales.
        out_dtype: Of the result.
        norm_eps: Apply RMSNorm to `x` first, with this epsilon and a weight ``[K]``.
        bias: Add a bias ``[N]``.
        gated: The first half of the columns is a gate: ``silu(y[:, :N/2]) * y[:, N/2:]``.
        residual: Add a tensor of the result's shape.
    """

    layout: Literal["NK", "KN"]
    dtype: str
    scale_dtype: str
    out_dtype: str
    norm_eps: float | None = None
    bias: bool = False
    gated: bool = False
    residual: bool = False

    @property
    def operands(self) -> tuple[str, ...]:
        """What a kernel takes before its result, in order."""
        norm = ["norm"] if self.norm_eps is not None else []
        bias, residual = ["bias"] * self.bias, ["residual"] * self.residual
        return ("x", "weight", "scale", *norm, *bias, *residual)

    @property
    def sections(self) -> int:
        """Columns of the weight for a column of the result."""
        return 2 if self.gated else 1

    @property
    def group_bytes(self) -> int:
        """Bytes of a group of packed weights and its scale."""
        return 4 * WORDS_PER_GROUP + np.dtype(self.scale_dtype).itemsize


@dataclass(frozen=True)
class ChainedMatmul:
    """A product of a chain: of several that one kernel computes one after the other.

    Attributes:
        matmul: The product.
        given: Of its operands those that are results of matmuls before it: name to the number of the chained.
        returned: Whether the result is one of the kernel's.
    """

    matmul: Matmul
    given: tuple[tuple[str, int], ...] = ()
    returned: bool = True

    @property
    def arguments(self) -> tuple[str, ...]:
        """The operands that the kernel is given."""
        return tuple(name for name in self.matmul.operands if name not in dict(self.given))
