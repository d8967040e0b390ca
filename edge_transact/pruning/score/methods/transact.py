"""TransAct (Shen et al., Findings of ACL 2024, section 3.2): the L2 norm of the transitional activations.

The paper scores heads and MLP dims. Dims inside a head score likewise: value dims by the norm of what they contribute
to attention's output projection, RoPE pairs by how much they can move attention.
"""

from __future__ import annotations

from typing import ClassVar

from edge_transact.pruning.score.methods.scorer import Scorer
from edge_transact.pruning.score.salience import head_salience, of_groups, pair_energy
from edge_transact.pruning.scores import LayerScores


class Transact(Scorer):
    """Scores a layer by its activations alone: no gradients, no weights."""

    squared: ClassVar[tuple[str, ...]] = ("attention", "mlp", "queries", "keys")

    def scores(self) -> LayerScores:
        attention, mlp, queries, keys = (self.squares[name].value() for name in self.squared)
        return LayerScores(
            heads=head_salience(attention.sqrt(), self.widths),
            v_dims=of_groups(attention, self.widths).sqrt(),
            qk_pairs=pair_energy(queries, keys, self.widths).sqrt(),
            intermediate=mlp.sqrt(),
        )
