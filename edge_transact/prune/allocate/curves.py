"""The loss of every layer by width: what a method predicts, corrected by what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from edge_transact.prune.allocate.pricing import UNITS, Curves
from edge_transact.prune.score.salience import LayerScores
from edge_transact.prune.score.sensitivity import reference
from edge_transact.widths import LayerWidths

POWER = 3
"""Without a prediction, loss grows with this power of the share that is cut: then the best cut of a layer goes with its
sensitivity to the power -1/2, which is what was found to work."""


MEASURED_UNITS = ("mlp", "groups", "queries")
"""The units that have a curve when nothing but the sensitivity is known."""


def loss_curves(scores: Sequence[LayerScores], widths: Sequence[LayerWidths], divergence: torch.Tensor) -> list[Curves]:
    """For each layer, the curves that `pricing.UNITS` names, in nats a token.

    A method that predicts losses keeps their shape, and is scaled to what was measured where it predicted something;
    of the others only `MEASURED_UNITS` have curves.

    Args:
        scores: What the method says of each layer.
        widths: Of each layer.
        divergence: `sensitivity.measure_sensitivity`'s, ``[layers, 2]``.
    """
    return [
        _scaled(of_layer.extra, layer, measured) if UNITS["mlp"] in of_layer.extra else _grown(layer, measured)
        for of_layer, layer, measured in zip(scores, widths, divergence.tolist(), strict=True)
    ]


def _scaled(predicted: Mapping[str, torch.Tensor], layer: LayerWidths, measured: Sequence[float]) -> Curves:
    factors = dict(zip(("attention", "mlp"), measured, strict=True))
    for kind in factors:
        expected = predicted[f"{kind}_reference_loss"].item()
        factors[kind] = factors[kind] / expected if expected > 0 else 1.0
    return {name: predicted[name] * factors["mlp" if unit == "mlp" else "attention"] for unit, name in UNITS.items()}


def _grown(layer: LayerWidths, measured: Sequence[float]) -> Curves:
    cut = reference(layer)
    attention, mlp = measured

    def curve(size: int, measured_cut: float, loss: float) -> torch.Tensor:
        share = torch.arange(size, -1, -1) / size
        return loss * (share / measured_cut) ** POWER

    of_mlp = 1 - cut.intermediate_size / layer.intermediate_size or 1.0
    of_heads = 1 - cut.num_key_value_heads / layer.num_key_value_heads
    if not of_heads:
        # The only KV group can't be cut to see what happens: its query heads are taken to matter as the MLP does.
        of_heads, attention = of_mlp, mlp
    return {
        UNITS["mlp"]: curve(layer.intermediate_size, of_mlp, mlp),
        UNITS["groups"]: curve(layer.num_key_value_heads, of_heads, attention),
        UNITS["queries"]: curve(layer.q_per_kv, of_heads, attention),
    }
