"""The loss of every layer by width: what a method predicts, corrected by what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from edge_transact.pruning.score.sensitivity import reference
from edge_transact.pruning.scores import LayerScores, PredictedLosses
from edge_transact.pruning.units import GROUPS, MEASURED_UNITS, MLP, MODULES, UNITS, Module
from edge_transact.widths import LayerWidths

Curves = Mapping[str, torch.Tensor]
"""A layer's sensitivity curves by unit name: nats a token by the number of units kept, fp32 ``[units + 1]``."""

POWER = 3
"""Without a prediction, loss is taken to grow with this power of the share that is cut.

The best cut of a layer is then proportional to its sensitivity to the power -1/2, which works well in experiments.
"""


def sensitivity_curves(
    scores: Sequence[LayerScores], widths: Sequence[LayerWidths], divergence: torch.Tensor
) -> Sequence[Curves]:
    """The sensitivity curves of each layer, from its scores, its widths and the result of `measure_sensitivity`.

    Predicted curves keep their shape and are scaled to the measured losses, if the prediction at the measured cut is
    above zero. Without predictions, only the units of `MEASURED_UNITS` have curves. The loss of all KV groups or
    MLP dims is what dropping the module was measured to cost, if it was.
    """
    curves: list[dict[str, torch.Tensor]] = []
    for of_layer, layer, row in zip(scores, widths, divergence.tolist(), strict=True):
        measured = dict(zip(MODULES, row, strict=False))
        curves.append(_scaled(of_layer.losses, measured) if of_layer.losses else _grown(layer, measured))
        for unit, loss in zip((GROUPS, MLP), row[len(MODULES) :], strict=False):
            if unit.count(layer):
                curves[-1][unit.name][0] = loss
        # What the layer lacks costs nothing.
        curves[-1] |= {name: torch.zeros(1) for name, unit in UNITS.items() if not unit.count(layer)}
    return curves


def _scaled(predicted: PredictedLosses, measured: Mapping[Module, float]) -> dict[str, torch.Tensor]:
    factors = {}
    for module, loss in predicted.reference.items():
        expected = loss.item()
        factors[module] = measured[module] / expected if expected > 0 else 1.0
    return {name: curve * factors[UNITS[name].module] for name, curve in predicted.curves.items()}


def _grown(layer: LayerWidths, measured: Mapping[Module, float]) -> dict[str, torch.Tensor]:
    cut = reference(layer)
    losses = dict(measured)
    shares: dict[Module, float] = {
        "attention": 1 - cut.num_key_value_heads / max(1, layer.num_key_value_heads),
        "mlp": 1 - cut.intermediate_size / max(1, layer.intermediate_size) or 1.0,
    }
    if not shares["attention"]:
        # The only KV group can't be cut for the measurement: its query heads are taken to matter as the MLP does.
        shares["attention"], losses["attention"] = shares["mlp"], losses["mlp"]

    def curve(count: int, module: Module) -> torch.Tensor:
        share = torch.arange(count, -1, -1) / max(1, count)
        return losses[module] * (share / shares[module]) ** POWER

    return {name: curve(UNITS[name].count(layer), UNITS[name].module) for name in MEASURED_UNITS}
