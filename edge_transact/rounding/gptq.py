"""GPTQ (Frantar et al., 2023) on the format's 16 codes, with searched scales.

Columns of a matrix are rounded one after the other, and later columns make up for their errors, in the metric of the
inputs' Gram matrix. A group's scale is searched when its first column is due; an error counts by its cost after the
others have made up for it. Groups and their columns come in the order of their inputs' energy, because the last ones
have little to make up for their errors.
"""

from __future__ import annotations

import torch

from edge_transact.quantization import Quantization
from edge_transact.rounding.search import best_scales, stored
from edge_transact.weights import w4

SHRINKAGE = 0.2
"""The Gram matrix's entries beside the diagonal become smaller by this share, at least. With the energy that
`calibrated.OTHER_TEXT` adds to the diagonal, it is 0.4. The usual damping of 0.01 leaves up to twice the error."""

CHUNK_ROWS = 4096
"""Rows that are rounded at once; rows don't depend on each other."""

BLOCK_GROUPS = 4
"""Groups of columns after which all later ones make up for the errors so far."""

INVERTED_AT_ONCE = 512
"""Rows of a triangular matrix that is inverted by solving."""


class GPTQ:
    """Rounds rows of matrices that read the same inputs.

    Args:
        gram: The sum of ``x^T x`` over the inputs x of so many tokens, fp32 ``[in, in]``.

    Raises:
        ValueError: The Gram matrix can't be factorized, because it isn't finite.
    """

    def __init__(self, gram: torch.Tensor, tokens: int, quantization: Quantization) -> None:
        self._quantization = quantization
        shrinkage = max(SHRINKAGE, len(gram) / (len(gram) + 2 * tokens))
        if padding := -len(gram) % quantization.group_size:
            gram = torch.nn.functional.pad(gram, (0, padding, 0, padding))
        self._order = _order(gram.diagonal(), quantization.group_size)
        backwards = self._order.flip(0)
        # Row j of the factor says how the columns after j make up for an error in j.
        self._factor = _factor(gram[backwards][:, backwards], shrinkage)

    def __call__(self, rows: torch.Tensor, first: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """A `w4.RoundRows`."""
        chunks = [self._round(w4.grouped(chunk.float(), self._quantization)) for chunk in rows.split(CHUNK_ROWS)]
        codes, scales = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        return codes, scales

    def _round(self, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weight, size = groups.flatten(start_dim=1)[:, self._order], groups.shape[2]
        block_size = BLOCK_GROUPS * size
        codes = torch.empty_like(weight)
        scales = torch.empty(len(weight), weight.shape[1] // size)
        for start in range(0, weight.shape[1], block_size):
            block = weight[:, start : start + block_size].contiguous()
            end = start + block.shape[1]
            factor, errors = self._factor[start:end, start:end], torch.empty_like(block)
            for first in range(0, len(factor), size):
                group, after = slice(first, first + size), slice(first + size, None)
                levels, scale, errors[:, group] = self._round_group(block[:, group], factor[group, group])
                codes[:, start:end][:, group], scales[:, (start + first) // size] = levels, scale
                block[:, after].addmm_(errors[:, group], factor[group, after], alpha=-1)
            weight[:, end:].addmm_(errors, self._factor[start:end, end:], alpha=-1)
        back = self._order.argsort()
        order = self._order[::size] // size
        dtype = getattr(torch, self._quantization.model_dtype)
        return codes[:, back].add_(self._quantization.zero_point).to(torch.int8), scales[:, order.argsort()].to(dtype)

    def _round_group(
        self, weight: torch.Tensor, factor: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A group of columns ``[rows, 32]`` as codes minus the zero point, stored scales ``[rows]``, and errors for
        later ones."""
        pivots = factor.diagonal()
        cost = pivots.square().reciprocal()
        found = best_scales(weight[:, None].contiguous(), cost / cost.mean(), self._quantization)
        scale = stored(found, self._quantization)[:, 0].float()
        steps = torch.where(scale == 0, torch.inf, scale)
        columns = weight.T.contiguous()
        levels, errors = torch.empty_like(columns), torch.empty_like(columns)
        for number, column in enumerate(columns):
            levels[number] = (column / steps).round_().clamp_(*self._quantization.levels)
            errors[number] = (column - levels[number] * scale) / pivots[number]
            columns[number + 1 :].addr_(factor[number, number + 1 :], errors[number], alpha=-1)
        return levels.T, scale, errors.T


def _factor(backwards: torch.Tensor, shrinkage: float) -> torch.Tensor:
    """The upper Cholesky factor U of the shrunk matrix's inverse, ``U^T U``, given the matrix in reverse order.

    Reversed, U is the inverse of the matrix's lower factor. At most two matrices of that size are here at once: of a 7B
    model, the largest takes half a gigabyte. `backwards` is changed.
    """
    diagonal = backwards.diagonal().clone()
    backwards *= 1 - shrinkage
    # An input that is always 0 could have any weight.
    backwards.diagonal().copy_(diagonal.clamp_min(1e-6 * diagonal.mean().item() or 1.0))
    lower, failed = torch.linalg.cholesky_ex(backwards)
    del backwards
    if failed:
        raise ValueError("the Gram matrix can't be factorized; is it finite?")
    _invert(lower)
    return lower.flip(0, 1)


def _invert(lower: torch.Tensor) -> None:
    """Replaces a lower triangular matrix by its inverse, from the inverses of its halves, in place."""
    if len(lower) <= INVERTED_AT_ONCE:
        lower.copy_(torch.linalg.solve_triangular(lower, torch.eye(len(lower)), upper=False))
        return
    half = len(lower) // 2
    first, second, below = lower[:half, :half], lower[half:, half:], lower[half:, :half]
    _invert(first)
    _invert(second)
    below.copy_(second @ (below @ first)).neg_()


def _order(energy: torch.Tensor, group_size: int) -> torch.Tensor:
    """All inputs, group by group, both in descending order of their energy; int64."""
    groups = energy.view(-1, group_size)
    inside = groups.argsort(dim=1, descending=True, stable=True)
    outside = groups.sum(dim=1).argsort(descending=True, stable=True)
    return (outside[:, None] * group_size + inside[outside]).flatten()
