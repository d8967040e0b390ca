"""What cutting one layer does to the model's predictions, measured: all other layers stay whole.

The windows go through the layers once, as the whole model has them and as every model with one layer cut does: those
variants join at their layer, and all that have joined go through the layers after it. So each layer is read once. How
far predictions move is the Kullback-Leibler divergence from the whole model's, which has little noise: no token must be
guessed right for a difference to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from edge_transact.progress import bar
from edge_transact.prune.calibrate.layerwise import LOGITS_TOKENS, LOGITS_VOCABULARY, LayerwiseModel, pieces
from edge_transact.prune.cut.selection import LayerSelection, select
from edge_transact.prune.journal import Journal, release
from edge_transact.prune.score.salience import LayerScores
from edge_transact.widths import LayerWidths

CUT = 0.25
"""The share of a layer's MLP dims, or of its KV groups, that is cut to see what happens."""

SHARE = 1 / 32
"""The share of the calibration tokens that are used."""

MOST_TOKENS = 1024
"""As many of them at most: they go through every variant of the model."""

WINDOW = 128
"""Tokens of a window: many short ones show more of the text than a few long ones of as many tokens."""


def reference(layer: LayerWidths) -> LayerWidths:
    """The widths to which attention and MLP are cut, each by itself: by `CUT`, at least one and never all."""
    groups = min(round(layer.num_key_value_heads * (1 - CUT)), layer.num_key_value_heads - 1)
    kept = max(1, groups)
    return replace(
        layer,
        num_attention_heads=kept * layer.q_per_kv,
        num_key_value_heads=kept,
        intermediate_size=max(1, min(round(layer.intermediate_size * (1 - CUT)), layer.intermediate_size - 1)),
    )


def measure_sensitivity(
    source: LayerwiseModel, selections: Sequence[LayerSelection], scores: Sequence[LayerScores], journal: Journal
) -> torch.Tensor:
    """The divergence, in nats a token, when attention or the MLP of one layer is cut to `reference`.

    Args:
        source: The source, and the calibration windows.
        selections: What is kept of each layer already.
        scores: What decides which dims go.
        journal: Where the result goes, and comes from if it was measured before.

    Returns:
        fp32, ``[layers, 2]``: attention, MLP.
    """
    if "sensitivity" not in journal:
        journal["sensitivity"] = {"divergence": _measure(source, selections, scores, journal)}
    return journal["sensitivity"]["divergence"]


@torch.no_grad()
def _measure(source: LayerwiseModel, selections, scores, journal: Journal) -> torch.Tensor:
    model = source.sample(min(round(source.windows.numel() * SHARE), MOST_TOKENS), WINDOW)
    layers = len(selections)
    whole = model.embeddings(journal)
    # Of all layers, attention and MLP.
    variants = journal.room((layers, 2, *whole.shape), whole.dtype)
    with bar("sensitivity", layers * (layers + 1)) as advance:
        for index, (selection, of_layer) in enumerate(zip(selections, scores, strict=True)):
            layer = model.layer(index, selection)
            for hidden in variants[:index].flatten(end_dim=1):
                _through(model, layer, hidden)
                advance(1)
            widths = selection.widths
            cut = reference(widths)
            for hidden, narrower in zip(
                variants[index],
                (
                    replace(cut, intermediate_size=widths.intermediate_size),
                    replace(widths, intermediate_size=cut.intermediate_size),
                ),
                strict=True,
            ):
                hidden.copy_(whole)
                chosen = selection.then(select(of_layer, narrower))
                _through(model, model.layer(index, chosen), hidden)
                advance(1)
            _through(model, layer, whole)
            release(variants)
        return _divergences(model, whole, variants)


def _through(model: LayerwiseModel, layer, hidden: torch.Tensor) -> None:
    for batch in pieces(hidden, model):
        batch.copy_(model.run(layer, batch))


def _divergences(model: LayerwiseModel, whole: torch.Tensor, variants: torch.Tensor) -> torch.Tensor:
    divergence = torch.zeros(variants.shape[:2], dtype=torch.float64)
    tokens = whole.flatten(end_dim=1)
    for start in range(0, len(tokens), LOGITS_TOKENS):
        rows = slice(start, start + LOGITS_TOKENS)
        log_probabilities = model.logits(tokens[rows]).log_softmax(dim=-1)
        negative_entropy = torch.zeros(len(log_probabilities), device=model.device)
        probabilities = []
        for block in log_probabilities.split(LOGITS_VOCABULARY, dim=-1):
            probabilities.append(block.exp())
            negative_entropy += (probabilities[-1] * block).sum(dim=-1)
        for hidden, total in zip(variants.flatten(end_dim=1), divergence.view(-1), strict=True):
            # Of each block of logits the log of its sum of exponentials, and its share of the mean logit.
            sums, mean = [], torch.zeros_like(negative_entropy)
            for logits, expected in zip(
                model.logit_blocks(hidden.flatten(end_dim=1)[rows]), probabilities, strict=True
            ):
                sums.append(logits.logsumexp(dim=-1))
                mean += logits.mul_(expected).sum(dim=-1)
            total += (negative_entropy - mean + torch.stack(sums).logsumexp(dim=0)).double().sum().item()
    return (divergence / len(tokens)).float()
