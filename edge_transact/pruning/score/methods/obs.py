"""The default method, an optimal brain surgeon: units score by the loss of cutting them, from one backward pass.

`pruning.score.loss` explains the prediction. The method also predicts the curves of loss by width of each unit, and the
loss of the cut whose effect `pruning.score.sensitivity` measures, so that the curves can be corrected.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from edge_transact.architecture.matrices import DOWN, OUTPUT
from edge_transact.checkpoint.layers import find_linear, linear
from edge_transact.pruning.rotation import Rotation, best_rotation
from edge_transact.pruning.score.loss import BlockLoss, by_width, curve, eliminate
from edge_transact.pruning.score.methods.scorer import Activations, Gradients, Scorer
from edge_transact.pruning.score.sensitivity import reference
from edge_transact.pruning.scores import LayerScores, PredictedLosses
from edge_transact.pruning.units import UNITS, Module


class Obs(Scorer):
    """Scores a layer by predicted loss, in nats a token."""

    allocation: ClassVar[str] = "budgeted"
    compensates: ClassVar[bool] = True
    gradients: ClassVar[Gradients] = "activations"
    priced_units: ClassVar[tuple[str, ...]] = tuple(UNITS)
    score_unit: ClassVar[str] = "predicted loss on text like the calibration's, nats a token"

    def __post_init__(self) -> None:
        self._attention, self._mlp = (
            None if found is None else BlockLoss(found.weight, diagonal=matrix is DOWN and not self.wants_losses)
            for matrix, found in ((matrix, find_linear(self.layer, matrix)) for matrix in (OUTPUT, DOWN))
        )
        self._pairs: torch.Tensor | float = 0.0
        self._tokens = 0

    def add(self, seen: Activations) -> None:
        if self._mlp:
            assert seen.mlp_gradient is not None
            self._mlp.add(seen.mlp, seen.mlp_gradient)
        if not self._attention:
            return
        assert seen.attention_gradient is not None and seen.queries_gradient is not None
        self._attention.add(seen.attention, seen.attention_gradient)
        # Cutting a pair removes what its queries contribute to the attention logits. To first order the loss changes by
        # queries times their gradient; the Fisher information squares that.
        by_dim = (seen.queries.float() * seen.queries_gradient.float()).unflatten(
            1, (self.widths.num_key_value_heads, self.widths.q_per_kv, 2, -1)
        )
        self._pairs = self._pairs + by_dim.sum(dim=(2, 3)).square().sum(dim=0)
        self._tokens += len(seen.queries)

    def scores(self) -> LayerScores:
        cut, curves = reference(self.widths), dict[str, torch.Tensor]()
        reference_losses: dict[Module, torch.Tensor] = {}
        rotation: Rotation | None = None
        heads, v_dims, pairs, intermediate = (torch.empty(shape) for shape in (0, (0, 0), (0, 0), 0))
        if self._attention:
            attention = self._attention.dims()
            gram, effects, shape = self._attention.gram, self._attention.effects, self._attention_dims.shape
            rotation, v_dims = best_rotation(torch.einsum("gqvgqw->gvw", gram.view(*shape, *shape)), effects)
            pairs = torch.as_tensor(self._pairs) / (2 * self._tokens)
            heads = attention.view(self.widths.num_attention_heads, -1).sum(dim=1)
            if self.wants_losses:
                by_group = heads.view(self.widths.num_key_value_heads, -1)
                curves |= self._attention_curves(by_group, gram, effects, rotation)
                curves["queries-keys"] = by_width(pairs.sort(dim=1, descending=True).values.sum(dim=0))
                groups = _descending(by_group.mean(dim=1))
                gone = self._attention_dims[groups[cut.num_key_value_heads :]].flatten()
                reference_losses["attention"] = self._attention.cut(gone)
            del gram, effects  # the MLP's are larger, and take the memory
        if self._mlp:
            intermediate = self._mlp.dims()
            if self.wants_losses:
                order, curves["mlp"] = eliminate(self._mlp.gram, self._mlp.effects)
                # A dim scores as the loss when it and all dims that go before it are gone.
                intermediate = torch.empty_like(intermediate).index_copy_(0, order, curves["mlp"][:-1])
                reference_losses["mlp"] = self._mlp.cut(order[cut.intermediate_size :])
        losses = PredictedLosses(curves, reference_losses) if self.wants_losses else None
        return LayerScores(heads, v_dims, pairs, intermediate, losses, rotation=rotation)

    @property
    def _attention_dims(self) -> torch.Tensor:
        """The dims of attention's transitional activation, int64 ``[groups, queries per group, v_head_dim]``."""
        widths = self.widths
        dims = torch.arange(widths.attention_size, device=linear(self.layer, OUTPUT).weight.device)
        return dims.view(widths.num_key_value_heads, widths.q_per_kv, widths.v_head_dim)

    def _attention_curves(
        self, heads: torch.Tensor, gram: torch.Tensor, effects: torch.Tensor, rotation: Rotation
    ) -> dict[str, torch.Tensor]:
        """The loss by the number of units kept, ``[units + 1]``; `heads` are scores, ``[groups, queries]``."""
        widths, dims = self.widths, self._attention_dims
        by_group = curve(gram, effects, dims[_descending(heads.mean(dim=1))].flatten())
        queries = _descending(heads)[..., None].expand_as(dims)
        by_query = curve(gram, effects, dims.gather(1, queries).transpose(0, 1).flatten())
        gram = rotation.of_values(rotation.of_values(gram).mT)
        by_dim = curve(gram, rotation.of_columns(effects.mT).mT, dims.permute(2, 0, 1).flatten())
        return {
            "groups": by_group[:: widths.q_per_kv * widths.v_head_dim].contiguous(),
            "queries": by_query[:: widths.num_key_value_heads * widths.v_head_dim].contiguous(),
            "values": by_dim[:: widths.num_attention_heads].contiguous(),
        }


def _descending(scores: torch.Tensor) -> torch.Tensor:
    return scores.argsort(dim=-1, descending=True, stable=True)
