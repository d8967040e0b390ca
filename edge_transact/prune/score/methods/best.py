"""The default: each unit by the loss that cutting it costs, predicted to second order from one backward pass.

`prune.score.loss` says how. What the method knows beside the scores are the curves of loss by width, one for
each kind of unit, from which a budget is spread over units and layers; and what it predicts of the cut whose effect is
measured, so that the curves can be corrected.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from edge_transact.prune.score.loss import BlockLoss, curve, eliminate
from edge_transact.prune.score.methods.scorer import Activations, Scorer
from edge_transact.prune.score.salience import LayerScores, of_groups
from edge_transact.prune.score.sensitivity import reference
from edge_transact.widths import LayerWidths


class Best(Scorer):
    """Scores a layer by predicted loss, in nats a token."""

    gradients: ClassVar[Literal["none", "activations", "weights"]] = "activations"

    def __init__(self, widths: LayerWidths, layer: LlamaDecoderLayer) -> None:
        super().__init__(widths, layer)
        self._blocks: list[BlockLoss] = []
        self._pairs: torch.Tensor | float = 0.0
        self._tokens = 0

    def add(self, seen: Activations) -> None:
        assert seen.attention_gradient is not None and seen.mlp_gradient is not None
        assert seen.queries_gradient is not None
        if not self._blocks:
            projections = (self.layer.self_attn.o_proj.weight, self.layer.mlp.down_proj.weight)
            self._blocks = [BlockLoss(weight, diagonal=not self.predicts) for weight in projections]
        attention, mlp = self._blocks
        attention.add(seen.attention, seen.attention_gradient)
        mlp.add(seen.mlp, seen.mlp_gradient)
        # Cutting a pair takes what its queries contribute to the logits of attention: the change of the loss is, to
        # first order, queries times their gradient, and its square is what the Fisher information makes of it.
        by_dim = (seen.queries.float() * seen.queries_gradient.float()).unflatten(
            1, (self.widths.num_key_value_heads, self.widths.q_per_kv, 2, -1)
        )
        self._pairs = self._pairs + by_dim.sum(dim=(2, 3)).square().sum(dim=0)
        self._tokens += len(seen.queries)

    def scores(self) -> LayerScores:
        of_attention, of_mlp = self._blocks
        attention, mlp = of_attention.dims(), of_mlp.dims()
        v_dims = of_groups(attention, self.widths)
        pairs = torch.as_tensor(self._pairs) / (2 * self._tokens)
        heads = attention.view(self.widths.num_attention_heads, -1).sum(dim=1)
        extra = {}
        if self.predicts:
            extra = self._curves_of_attention(of_attention, heads, v_dims, pairs)
            order, losses = eliminate(of_mlp.gram, of_mlp.effects)
            # A dim scores as the loss when it and all that go before it are gone.
            mlp = torch.empty_like(mlp).index_copy_(0, order, losses[:-1])
            gone = order[reference(self.widths).intermediate_size :]
            extra |= {"intermediate_loss": losses, "mlp_reference_loss": of_mlp.cut(gone)}
        return LayerScores(heads=heads, v_dims=v_dims, qk_pairs=pairs, intermediate=mlp, extra=extra)

    def _curves_of_attention(self, of_attention: BlockLoss, heads, v_dims, pairs) -> dict[str, torch.Tensor]:
        """The loss by number of units kept, from none to all: ``[units + 1]`` each; and that of the cut measured."""
        widths, cut = self.widths, reference(self.widths)
        gram, effects = of_attention.gram, of_attention.effects
        dims = torch.arange(widths.attention_size, device=gram.device).view(
            widths.num_key_value_heads, widths.q_per_kv, widths.v_head_dim
        )
        groups = heads.view(widths.num_key_value_heads, -1).mean(dim=1).argsort(descending=True, stable=True)
        by_group = curve(gram, effects, dims[groups].flatten())
        queries = heads.view(widths.num_key_value_heads, -1).argsort(dim=1, descending=True, stable=True)
        by_query = curve(gram, effects, dims.gather(1, queries[..., None].expand_as(dims)).transpose(0, 1).flatten())
        ranked = dims.gather(2, v_dims.argsort(dim=1, descending=True, stable=True)[:, None].expand_as(dims))
        by_dim = curve(gram, effects, ranked.permute(2, 0, 1).flatten())
        descending = pairs.sort(dim=1, descending=True).values.sum(dim=0)
        return {
            "groups_loss": by_group[:: widths.q_per_kv * widths.v_head_dim].contiguous(),
            "queries_loss": by_query[:: widths.num_key_value_heads * widths.v_head_dim].contiguous(),
            "v_dims_loss": by_dim[:: widths.num_attention_heads].contiguous(),
            "qk_pairs_loss": torch.cat([descending.flip(0).cumsum(0).flip(0), descending.new_zeros(1)]),
            "attention_reference_loss": of_attention.cut(dims[groups[cut.num_key_value_heads :]].flatten()),
        }
