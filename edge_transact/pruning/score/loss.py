"""Predicts the loss that a cut costs, from one backward pass, if the consuming projection is then solved again.

A change ``d_t`` of a block's output ``W z`` at token t costs ``1/2 (g_t . d_t)^2`` nats, where ``g_t`` is the gradient
of the summed loss with respect to it (the empirical Fisher information). With activations independent of gradients,

    loss = 1/2 tr(F dW A dW^T) / tokens,    F = sum g g^T,   A = sum |g|^2 z z^T / sum |g|^2.

When W is solved again, what remains is the part of the cut dims that the kept ones don't explain: with ``A = L L^T``,
dims from first kept to first cut, the columns of L from the k-th on. F is factorized too, so that A is the only matrix
of all dims by all dims. docs/prune-methods.md derives it.
"""

from __future__ import annotations

import torch

from edge_transact.layerwise.gram import BLOCK, Gram
from edge_transact.pruning.rotation import DAMPING, damped

LIFTS = (10, 100, 1000)
"""Multiples of the damping, tried in turn, for a matrix that rounding made indefinite."""

ELIMINATIONS = 96
"""The number of times that costs are computed again, from all dims to none; each time at least one dim is cut."""

KEPT_IN_PLACE = 8
"""Eliminations between two copies of the matrices without the dims that were cut; a copy takes as long as one."""


class BlockLoss:
    """The statistics of one block, summed batch by batch in fp32.

    `projection` is the consuming weight, ``[hidden_size, size]``. With `diagonal`, the diagonal of A is enough, for
    `dims` alone.
    """

    def __init__(self, projection: torch.Tensor, *, diagonal: bool = False) -> None:
        self._projection = projection
        hidden, size = projection.shape
        self._fisher = Gram(hidden, projection.device)
        self._gram = None if diagonal else Gram(size, projection.device)
        self._diagonal = torch.zeros(size, device=projection.device)
        self._weight = torch.zeros((), device=projection.device)
        self._tokens = 0

    def add(self, activation: torch.Tensor, gradient: torch.Tensor) -> None:
        """Adds a batch: the activation ``[tokens, size]`` and the output's gradient ``[tokens, hidden_size]``."""
        gradient = gradient.float()
        norms = gradient.norm(dim=1, keepdim=True)
        weighted = activation.float() * norms
        self._fisher.add(gradient)
        if self._gram is None:
            self._diagonal += weighted.square().sum(dim=0)
        else:
            self._gram.add(weighted)
        self._weight += norms.square().sum()
        self._tokens += len(gradient)

    @property
    def gram(self) -> torch.Tensor:
        """A, damped, ``[size, size]``."""
        return damped(self._whole_gram() / self._weight.clamp_min(torch.finfo(torch.float32).tiny))

    @property
    def effects(self) -> torch.Tensor:
        """``W^T R`` with ``R R^T = 1/2 F / tokens``, ``[size, hidden_size]``.

        A row's squared length is the loss when that dim changes by 1 at every token, in nats a token.
        """
        fisher = self._fisher.whole().double() / (2 * self._tokens)
        diagonal = fisher.diagonal()
        # With fewer tokens than outputs, some directions cost nothing.
        diagonal += 1e-6 * diagonal.mean() + torch.finfo(torch.float32).tiny
        return self._projection.T.float() @ _factor(fisher, 1e-6).float()

    def dims(self) -> torch.Tensor:
        """The loss of cutting each dim alone without solving W again, nats a token, ``[size]``."""
        projection = self._projection.float()
        metric = (projection * (self._fisher.whole() @ projection)).sum(dim=0) / (2 * self._tokens)
        return (self._diagonal if self._gram is None else self._gram.whole().diagonal()) / self._weight * metric

    def cut(self, dims: torch.Tensor) -> torch.Tensor:
        """The loss of cutting several dims, int64 ``[dims]``, without solving W again; nats a token, a scalar."""
        columns = self._projection[:, dims].float()
        changed = columns @ _chosen(self._whole_gram(), dims)
        return (changed * (self._fisher.whole() @ columns)).sum() / (2 * self._tokens * self._weight)

    def _whole_gram(self) -> torch.Tensor:
        assert self._gram is not None, "only `dims` works with `diagonal`"
        return self._gram.whole()


def eliminate(gram: torch.Tensor, effects: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cuts the dims that cost least, with W solved again after each elimination, until none is left.

    Args:
        gram: ``[size, size]``, positive definite.
        effects: `BlockLoss.effects`, ``[size, hidden_size]``.

    Returns:
        The dims from first kept to first cut, int64 ``[size]``; and the loss at every width, as `curve` gives it.
    """
    inverse = torch.cholesky_inverse(_factor(gram, DAMPING))
    del gram  # of a 7B model's MLP such a matrix is half a gigabyte
    at_once = max(1, len(effects) // ELIMINATIONS)
    left = torch.arange(len(effects), device=effects.device)
    effects = effects.clone()
    order, costs = [], []
    while True:
        gone = torch.zeros(len(left), dtype=torch.bool, device=effects.device)
        for _ in range(KEPT_IN_PLACE):
            alone = torch.linalg.vector_norm(effects, dim=1).square() / inverse.diagonal()
            staying = len(left) - int(gone.sum())
            going = alone.masked_fill_(gone, torch.inf).argsort(stable=True)[: min(at_once, staying)]
            order.append(left[going])
            # Let M M^T be the block of the inverse that belongs to the dims that go. Row i of M^-1 times their effects
            # is the effect of the i-th one after the ones before it are gone; its squared length is its cost.
            factor = _factor(inverse[going][:, going], DAMPING)
            own = torch.linalg.solve_triangular(factor, effects[going], upper=False)
            costs.append(own.square().sum(dim=1))
            gone[going] = True
            if staying <= at_once:
                return torch.cat(order).flip(0), by_width(torch.cat(costs).flip(0))
            # The other dims take over: their regression on the dims that go distributes those columns of W.
            shared = torch.linalg.solve_triangular(factor, inverse[going].masked_fill_(gone, 0), upper=False)
            effects.addmm_(shared.T, own, alpha=-1)
            inverse.addmm_(shared.T, shared, alpha=-1)
        stays = (~gone).nonzero()[:, 0]
        left = left[stays]
        effects = effects[stays]
        inverse = _chosen(inverse, stays)


def curve(gram: torch.Tensor, effects: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """The loss at every width when dims are kept in `order`, int64 ``[size]``, with the projection solved again.

    Returns:
        fp32 ``[size + 1]``: entry k is the loss when the first k dims of `order` are kept, nats a token.
    """
    gram = _chosen(gram, order)
    factor = _factor(gram, DAMPING)
    del gram
    effects = effects[order]
    of_columns = torch.empty(len(order), device=effects.device)
    for first, of_block in zip(range(0, len(order), BLOCK), of_columns.split(BLOCK), strict=True):
        # Above the diagonal the factor is zero.
        columns = factor[first:, first : first + BLOCK]
        of_block.copy_((columns.T @ effects[first:]).square().sum(dim=1))
    return by_width(of_columns)


def by_width(costs: torch.Tensor) -> torch.Tensor:
    """From the cost of each dim, ``[size]``: the loss by the number of first dims that are kept, ``[size + 1]``."""
    # Summed from the end, in fp64: fp32 would lose the small differences that small cuts make.
    losses = costs.double().flip(0).cumsum(0).flip(0)
    return torch.cat([losses, losses.new_zeros(1)]).float()


def _chosen(matrix: torch.Tensor, dims: torch.Tensor) -> torch.Tensor:
    """``matrix[dims][:, dims]``, without the intermediate matrix."""
    chosen = matrix.new_empty(len(dims), len(dims))
    for rows, of_rows in zip(chosen.split(BLOCK), dims.split(BLOCK), strict=True):
        torch.index_select(matrix[of_rows], 1, dims, out=rows)
    return chosen


def _factor(matrix: torch.Tensor, damping: float) -> torch.Tensor:
    """The lower Cholesky factor. If rounding made the matrix indefinite, more is added to its diagonal, see `LIFTS`."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    for lift in LIFTS:
        if not failed:
            break
        factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag(lift * damping * matrix.diagonal()))
    return factor
