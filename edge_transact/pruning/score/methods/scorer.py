"""The interface of scoring methods: a class that sees one layer's activations and scores the layer's units."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from edge_transact.checkpoint.layers import DecoderLayer
from edge_transact.pruning.score.salience import SquareSum
from edge_transact.pruning.scores import LayerScores
from edge_transact.pruning.units import MEASURED_UNITS
from edge_transact.widths import LayerWidths

Gradients = Literal["none", "activations", "weights"]


@dataclass(frozen=True)
class Activations:
    """What one layer computes for a batch of calibration tokens, in the dtype of the computation, tokens flattened.

    What belongs to attention or to an MLP that the layer lacks is one token without dims. Gradients are those of the
    batch's summed next-token loss, and `None` for that and for methods that don't ask for them.

    Attributes:
        attention: The input of attention's output projection, ``[tokens, attention_size]``.
        mlp: The input of the MLP's down projection, ``[tokens, intermediate_size]``.
        attention_input: The input of the projections to q, k and v, ``[tokens, hidden_size]``.
        mlp_input: The input of the MLP's gate and up projections, ``[tokens, hidden_size]``.
        queries: Queries before RoPE, ``[tokens, num_attention_heads * qk_head_dim]``.
        keys: Keys before RoPE, ``[tokens, num_key_value_heads * qk_head_dim]``.
        attention_gradient: The gradient with respect to attention's output, ``[tokens, hidden_size]``.
        mlp_gradient: The gradient with respect to the MLP's output, ``[tokens, hidden_size]``.
        queries_gradient: The gradient with respect to `queries`, in the same shape.
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


@dataclass(eq=False, repr=False)
class Scorer(ABC):
    """Scores one layer from what it computes on the calibration text, batch by batch.

    Class attributes say what a method can do and what it needs; nothing else depends on which method it is.

    Args:
        layer: The layer, which has these `widths`. If `gradients` is ``weights``, its weights' ``grad`` is that of the
            summed loss of all calibration tokens by the time `scores` is called.
        seed: For methods that draw random numbers; it differs for every layer, every shot and every ``--seed``.
        wants_losses: Whether to predict losses, for methods that can.
    """

    widths: LayerWidths
    layer: DecoderLayer
    seed: int = 0
    wants_losses: bool = True

    allocation: ClassVar[str] = "uniform"
    """The allocation that the method is meant for."""

    compensates: ClassVar[bool] = False
    """Whether compensation is on unless the user says otherwise."""

    gradients: ClassVar[Gradients] = "none"
    """The gradients that the method needs: none (no backward pass), those of activations, or of weights too."""

    priced_units: ClassVar[tuple[str, ...]] = MEASURED_UNITS
    """Units that the budgeted allocation can cut with this method: those with a sensitivity curve."""

    score_unit: ClassVar[str] = ""
    """What the scores measure; empty for scores that only rank."""

    squared: ClassVar[tuple[str, ...]] = ()
    """The activations whose squares `squares` sums over all tokens, by dim."""

    def __post_init__(self) -> None:
        self.squares = {name: SquareSum() for name in self.squared}

    def add(self, seen: Activations) -> None:
        """Adds a batch, for methods that look at activations."""
        for name, squares in self.squares.items():
            squares.add(getattr(seen, name))

    @abstractmethod
    def scores(self) -> LayerScores:
        """The scores from all batches added."""
