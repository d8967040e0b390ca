"""Scoring methods, one a file: what decides which heads and MLP dims of a layer stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from edge_transact.errors import UsageError, did_you_mean
from edge_transact.prune.methods.transact import Transact
from edge_transact.prune.salience import LayerScores
from edge_transact.widths import LayerWidths


class Scorer(Protocol):
    """Scores one layer from its transitional activations on the calibration text, seen batch by batch."""

    def add_attention(self, activation: torch.Tensor) -> None:
        """Takes in `o_proj`'s input, ``[batch, window, attention_size]``."""

    def add_mlp(self, activation: torch.Tensor) -> None:
        """Takes in `down_proj`'s input, ``[batch, window, intermediate_size]``."""

    def scores(self) -> LayerScores:
        """The scores from all that was taken in."""


Method = Callable[[LayerWidths], Scorer]
"""Makes the scorer of a layer that has these widths."""

METHODS: dict[str, Method] = {"transact": Transact}


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in METHODS:
        raise UsageError(f"there is no method {name!r}", fix=did_you_mean(name, METHODS))
    return METHODS[name]
