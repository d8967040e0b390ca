"""Measures how far the model's predictions move when one layer is cut and all others stay as they are.

The windows go through the layers once: as hidden states of the uncut model, and of a variant for every module of every
layer, which joins where that module is cut, or dropped whole. The Kullback-Leibler divergence from the uncut model's
predictions has little noise: a difference shows even where no variant predicts the right token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from edge_transact.cache.journal import Journal, release
from edge_transact.layerwise.model import LayerwiseModel, divergences, through
from edge_transact.progress import bar
from edge_transact.pruning.cut import LayerSelection, cut_layer, select
from edge_transact.pruning.score.kept import KeptScores
from edge_transact.pruning.scores import LayerScores, PredictedLosses
from edge_transact.pruning.units import GROUPS, MEASURED_UNITS, MLP, MODULES, UNITS, Module
from edge_transact.widths import LayerWidths

CUT = 0.25
"""The share of a layer's MLP dims, or of its KV groups, that is cut for the measurement."""

SHARE = 1 / 32
"""The share of the calibration tokens that is used."""

MOST_TOKENS = 1024
"""The largest number of tokens used: they go through every variant of the model."""

WINDOW = 128
"""Tokens in a window: many short windows cover more of the text than a few long ones."""

LAYERS_STEP, DIVERGENCE_STEP = "sensitivity", "sensitivity, divergence"

_STATE = "sensitivity-state"

Curves = Mapping[str, torch.Tensor]
"""A layer's sensitivity curves by unit name: nats a token by the number of units kept, fp32 ``[units + 1]``."""

POWER = 3
"""Without a prediction, loss is taken to grow with this power of the share that is cut.

The best cut of a layer is then proportional to its sensitivity to the power -1/2, which works well in experiments.
"""


def reference(layer: LayerWidths) -> LayerWidths:
    """The widths to which attention and the MLP are cut, each by itself: by `CUT`, at least by one, but not to none."""

    def kept(units: int) -> int:
        return max(min(1, units), min(round(units * (1 - CUT)), units - 1))

    groups = kept(layer.num_key_value_heads)
    return replace(
        layer,
        num_attention_heads=groups * layer.q_per_kv,
        num_key_value_heads=groups,
        intermediate_size=kept(layer.intermediate_size),
    )


def measure_sensitivity(
    source: LayerwiseModel,
    selections: Sequence[LayerSelection],
    scores: Sequence[LayerScores],
    journal: Journal,
    *,
    drops: bool = False,
    kept: KeptScores | None = None,
) -> torch.Tensor:
    """The divergence, in nats a token, when attention or the MLP of one layer is cut to `reference`.

    Scores decide which units are cut of what earlier shots' selections left. `kept` may have it.

    Returns:
        fp32, ``[layers, 2]``; the columns are `MODULES`. With `drops`, ``[layers, 4]``: also where they are gone whole.
    """
    name = "sensitivity" + ", dropped" * drops

    def measure() -> None:
        if name not in journal:
            journal[name] = {"divergence": _measure(source, selections, scores, journal, drops)}

    if kept and name not in journal:
        ranks = hashlib.sha256(b"".join(of_layer.rank_bytes() for of_layer in scores)).hexdigest()
        kept.bring(journal, [name], source.windows, ["sensitivity", drops, ranks], measure)
    measure()
    return journal[name]["divergence"]


def _variants(layer: LayerWidths, drops: bool) -> list[LayerWidths]:
    cut = reference(layer)
    variants = [
        replace(cut, intermediate_size=layer.intermediate_size),
        replace(layer, intermediate_size=cut.intermediate_size),
    ]
    return variants + [unit.narrowed(layer, 0) for unit in (GROUPS, MLP) if drops]


@torch.no_grad()
def _measure(
    source: LayerwiseModel,
    selections: Sequence[LayerSelection],
    scores: Sequence[LayerScores],
    journal: Journal,
    drops: bool,
) -> torch.Tensor:
    model = source.sample(min(round(source.windows.numel() * SHARE), MOST_TOKENS), WINDOW)
    layers = len(selections)
    if _STATE in journal:
        state = journal[_STATE]
        done, whole, variants = int(state["done"]), state["whole"], state["variants"]
    else:
        done, whole = 0, model.embeddings(journal)
        # [layers, variants, windows, window, hidden_size]
        variants = journal.room((layers, len(MODULES) * (1 + drops), *whole.shape), whole.dtype)
    windows = variants[0].numel() // whole[0].numel()
    with bar(LAYERS_STEP, layers * (layers + 1) // 2 * windows, done * (done + 1) // 2 * windows) as advance:
        for index in range(done, layers):
            selection, of_layer = selections[index], scores[index]
            layer = cut_layer(model, index, selection)
            if index:
                # Together, because a variant's windows alone are too few for fast matrix products.
                through(model, layer, variants[:index].flatten(end_dim=2), advance)
            for hidden, narrower in zip(variants[index], _variants(selection.widths, drops), strict=True):
                hidden.copy_(whole)
                chosen = selection.then(select(of_layer, narrower))
                through(model, cut_layer(model, index, chosen), hidden, advance)
            through(model, layer, whole)
            state = {"whole": whole, "variants": variants, "done": torch.tensor(index + 1)}
            journal.now_and_then(_STATE, state, last=False)
            release(variants)
    hidden_states = variants.flatten(end_dim=1)
    with bar(DIVERGENCE_STEP, len(hidden_states) * model.windows.numel()) as advance:
        divergence = divergences(model, whole, [(model, hidden) for hidden in hidden_states], advance)
    journal.discard(_STATE)
    return divergence.view(variants.shape[:2]).float()


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
