"""TransAct (Shen et al., Findings of ACL 2024, section 3.2): the L2 norm of the transitional activations."""

from __future__ import annotations

import torch

from edge_transact.prune.salience import ActivationNorm, LayerScores, head_salience
from edge_transact.widths import LayerWidths


class Transact:
    """Scores a layer by its activations alone: no gradients, no weights."""

    def __init__(self, widths: LayerWidths) -> None:
        self._num_heads = widths.num_attention_heads
        self._attention = ActivationNorm(widths.attention_size)
        self._mlp = ActivationNorm(widths.intermediate_size)

    def add_attention(self, activation: torch.Tensor) -> None:
        self._attention.add(activation)

    def add_mlp(self, activation: torch.Tensor) -> None:
        self._mlp.add(activation)

    def scores(self) -> LayerScores:
        return LayerScores(
            heads=head_salience(self._attention.value(), self._num_heads), intermediate=self._mlp.value()
        )
