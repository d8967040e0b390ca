"""What every scoring method is: one class that sees a layer's activations and says which of its units matter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from edge_transact.prune.score.salience import LayerScores
from edge_transact.widths import LayerWidths


@dataclass(frozen=True)
class Activations:
    """What one layer computes for a batch of calibration tokens, in the dtype of the computation, tokens flattened.

    Gradients are those of the batch's summed next-token loss, and `None` for methods that don't ask for them.

    Attributes:
        attention: `o_proj`'s input, ``[tokens, attention_size]``.
        mlp: `down_proj`'s input, ``[tokens, intermediate_size]``.
        attention_input: What `q_proj`, `k_proj` and `v_proj` get, ``[tokens, hidden_size]``.
        mlp_input: What `gate_proj` and `up_proj` get, ``[tokens, hidden_size]``.
        queries: `q_proj`'s output, ``[tokens, num_attention_heads * qk_head_dim]``.
        keys: `k_proj`'s output, ``[tokens, num_key_value_heads * qk_head_dim]``.
        attention_gradient: Of the loss by `o_proj`'s output, ``[tokens, hidden_size]``.
        mlp_gradient: Of the loss by `down_proj`'s output, ``[tokens, hidden_size]``.
        queries_gradient: Of the loss by `queries`, of their shape.
    """

    attention: torch.Tensor
    mlp: torch.Tensor
    attention_input: torch.Tensor
    mlp_input: torch.Tensor
    queries: torch.Tensor
    keys: torch.Tensor
    attention_gradient: torch.Tensor | None = None
    mlp_gradient: torch.Tensor | None = None
    queries_gradient: torch.Tensor | None = None


class Scorer(ABC):
    """Scores one layer from what it computes on the calibration text, seen batch by batch.

    Args:
        widths: The layer's.
        layer: The layer itself, for methods that look at weights; where `gradients` is ``weights``, their ``grad`` is
            that of the summed loss of all calibration tokens by the time `scores` is called.

    Attributes:
        seed: For what a method draws: another for every layer, every shot and every ``--seed``.
        predicts: Whether curves of loss by width are wanted, among the extras, of methods that predict them.
    """

    gradients: ClassVar[Literal["none", "activations", "weights"]] = "none"
    """What the method wants of the backward pass: nothing, so that there is none; by activations; or by weights too."""

    def __init__(self, widths: LayerWidths, layer: LlamaDecoderLayer) -> None:
        self.widths = widths
        self.layer = layer
        self.seed = 0
        self.predicts = True

    @abstractmethod
    def add(self, seen: Activations) -> None:
        """Takes in a batch."""

    @abstractmethod
    def scores(self) -> LayerScores:
        """The scores from all that was taken in."""
