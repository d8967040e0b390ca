"""Value heads in another basis, so that their best subspace is kept and not their best dims.

Between `v_proj` and `o_proj`, a KV head's values are only averaged over tokens, and any invertible map of them can be
undone: ``W z = (W T^-1) (T z)``. Let ``C = L L^T`` be the second moment of z, and G the metric in which its changes
count, such as ``W^T W``, both summed over the query heads that share the values. With the eigenvectors U of
``L^T G L``, from the largest eigenvalue on, ``T = U^T L^-1`` makes the dims independent. Its first k rows are the best
that k dims can keep: what is cut costs the sum of its eigenvalues (Eckart and Young; in language models, SVD-LLM, Wang
et al., 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edge_transact.architecture.matrices import OUTPUT
from edge_transact.checkpoint.layers import DecoderLayer, find_linear
from edge_transact.widths import LayerWidths

DAMPING = 1e-2
"""Added to the diagonal of a second moment, as a share of it, for what the calibration text doesn't show."""

SHRINKAGE = 0.3
"""Added to it for the rotation alone, as a share: without it, the subspace is that of the calibration text, and other
kinds of text lose more than with the best dims as they are."""


@dataclass(frozen=True)
class Rotation:
    """Maps of the values of each KV head to other dims, and back, fp32.

    Attributes:
        into: ``[groups, dims, v_head_dim]``.
        back: ``[groups, v_head_dim, dims]``, the inverse; of fewer dims, its product with `into` projects onto them.
    """

    into: torch.Tensor
    back: torch.Tensor

    def of_values(self, values: torch.Tensor) -> torch.Tensor:
        """The new dims of values ``[..., heads * v_head_dim]``, where several heads may share a KV head."""
        return _mapped(values, self.into.mT)

    def of_columns(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight ``[..., heads * v_head_dim]`` that makes of the new dims what the given one makes of values."""
        return _mapped(weight, self.back)

    def projected(self, values: torch.Tensor) -> torch.Tensor:
        """What the new dims tell of values ``[..., heads * v_head_dim]``."""
        return _mapped(self.of_values(values), self.back.mT)

    def chosen(self, groups: torch.Tensor, dims: torch.Tensor) -> Rotation:
        """The maps of these KV heads, int64 ``[groups]``, with these of the new dims, int64 ``[groups, dims]``."""
        return Rotation(self.into[groups[:, None], dims], self.back.mT[groups[:, None], dims].mT)

    def orthonormal(self) -> Rotation:
        """The same subspace, in dims whose weights are about as large as those of values."""
        basis, mixed = torch.linalg.qr(self.into.mT.double())
        return Rotation(basis.mT.float(), (self.back.double() @ mixed.mT).float())

    def then(self, further: Rotation) -> Rotation:
        return Rotation(further.into @ self.into, self.back @ further.back)


def damped(moments: torch.Tensor) -> torch.Tensor:
    """Second moments ``[..., size, size]`` with more on their diagonals, in place."""
    diagonal = moments.diagonal(dim1=-2, dim2=-1)
    # Dead dims get a little, which factorizations need; they still cost nothing.
    diagonal += DAMPING * diagonal + 1e-6 * diagonal.mean(dim=-1, keepdim=True) + torch.finfo(torch.float32).tiny
    return moments


def best_rotation(moments: torch.Tensor, effects: torch.Tensor) -> tuple[Rotation, torch.Tensor]:
    """The rotation of each KV head's values, and the loss of each new dim, descending, fp32 ``[groups, v_head_dim]``.

    Args:
        moments: C, damped, ``[groups, v_head_dim, v_head_dim]``; `SHRINKAGE` is added to its diagonal.
        effects: A row for each dim of attention's activation, ``[heads * v_head_dim, effects]``. A group's G is the sum
            of their products.
    """
    groups, dims, _ = moments.shape
    rows = effects.reshape(groups, -1, dims, effects.shape[1]).float()
    metric = torch.einsum("gqve,gqwe->gvw", rows, rows).double()
    shrunk = moments.double() + SHRINKAGE * torch.diag_embed(moments.double().diagonal(dim1=-2, dim2=-1))
    factor, _ = torch.linalg.cholesky_ex(shrunk)
    # What isn't finite stays in the factor, and is reported later.
    losses, vectors = torch.linalg.eigh((factor.mT @ metric @ factor).nan_to_num())
    vectors = vectors.flip(-1)
    into = torch.linalg.solve_triangular(factor.mT, vectors, upper=True).mT
    return Rotation(into.float(), (factor @ vectors).float()), losses.flip(-1).clamp_min(0).float()


def least_squares_rotation(moments: torch.Tensor, layer: DecoderLayer) -> tuple[Rotation | None, torch.Tensor]:
    """`best_rotation` of a layer for the squared error of its attention's output, if it has attention."""
    output = find_linear(layer, OUTPUT)
    return (None, torch.empty(0, 0)) if output is None else best_rotation(damped(moments), output.weight.mT)


def value_moments(activation: torch.Tensor, widths: LayerWidths) -> torch.Tensor:
    """Second moments summed over tokens and query heads, fp64 ``[groups, v_head_dim, v_head_dim]``.

    `activation` is that of attention, any float dtype, ``[tokens, heads * v_head_dim]``.
    """
    shape = widths.num_key_value_heads, widths.q_per_kv, widths.v_head_dim
    heads = activation.double().view(len(activation), *shape)
    return torch.einsum("tgqv,tgqw->gvw", heads, heads)


def _mapped(heads: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Heads ``[..., heads * dims]`` times the map of their KV head, ``[groups, dims, new dims]``, in their dtype."""
    groups, dims, _ = maps.shape
    of_groups = heads.unflatten(-1, (groups, -1, dims)).float()
    return torch.einsum("...gqv,gvw->...gqw", of_groups, maps).flatten(start_dim=-3).to(heads.dtype)
