"""TransAct (Shen et al., Findings of ACL 2024, section 3.2): the L2 norm of the transitional activations.

The paper scores heads and MLP dims. Dims inside a head score likewise: value dims by the norm of what they contribute
to attention's output projection, RoPE pairs by how much they can move attention.
"""

from __future__ import annotations

from edge_transact.pruning.score.methods.scorer import Activations, Scorer
from edge_transact.pruning.score.salience import SquareSum, head_salience, of_groups, pair_energy
from edge_transact.pruning.scores import LayerScores


class Transact(Scorer):
    """Scores a layer by its activations alone: no gradients, no weights."""

    def __post_init__(self) -> None:
        self._attention, self._mlp = SquareSum(), SquareSum()
        self._queries, self._keys = SquareSum(), SquareSum()

    def add(self, seen: Activations) -> None:
        self._attention.add(seen.attention)
        self._mlp.add(seen.mlp)
        self._queries.add(seen.queries)
        self._keys.add(seen.keys)

    def scores(self) -> LayerScores:
        return LayerScores(
            heads=head_salience(self._attention.norm(), self.widths),
            v_dims=of_groups(self._attention.value(), self.widths).sqrt(),
            qk_pairs=pair_energy(self._queries.value(), self._keys.value(), self.widths).sqrt(),
            intermediate=self._mlp.norm(),
        )
