"""How far the predictions of variants of a model are from the model's own, from the hidden states of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from edge_transact.checkpoint.layers import DecoderLayer
from edge_transact.layerwise.model import LOGITS_TOKENS, LOGITS_VOCABULARY, LayerwiseModel, pieces


def through(
    model: LayerwiseModel,
    layer: DecoderLayer,
    hidden: torch.Tensor,
    advance: Callable[[int], None] = lambda windows: None,
) -> None:
    """Replaces hidden states ``[windows, window, hidden_size]`` by a layer's output for them.

    They may be those of several times the model's windows. `advance` moves a progress bar by a number of windows.
    """
    for batch in pieces(hidden, model):
        batch.copy_(model.run(layer, batch))
        advance(len(batch))


def divergences(
    model: LayerwiseModel,
    whole: torch.Tensor,
    variants: Sequence[tuple[LayerwiseModel, torch.Tensor]],
    advance: Callable[[int], None] = lambda tokens: None,
) -> torch.Tensor:
    """The mean Kullback-Leibler divergence of each variant's predictions from the model's.

    Args:
        whole: The output of its last layer, ``[windows, window, hidden_size]``.
        variants: The model whose last norm and `lm_head` a variant has, and the output of the variant's last layer.
        advance: Moves a progress bar by a number of tokens, those of every variant.

    Returns:
        Nats a token, fp64 ``[variants]``.
    """
    divergence = torch.zeros(len(variants), dtype=torch.float64)
    tokens = whole.flatten(end_dim=1)
    for start in range(0, len(tokens), LOGITS_TOKENS):
        rows = slice(start, start + LOGITS_TOKENS)
        log_probabilities = model.logits(tokens[rows]).log_softmax(dim=-1)
        negative_entropy = torch.zeros(len(log_probabilities), device=model.device)
        probabilities = []
        for block in log_probabilities.split(LOGITS_VOCABULARY, dim=-1):
            probabilities.append(block.exp())
            negative_entropy += (probabilities[-1] * block).sum(dim=-1)
        for index, (variant, hidden) in enumerate(variants):
            # For each block of logits: the log of its sum of exponentials, and its part of the mean logit.
            sums, mean = [], torch.zeros_like(negative_entropy)
            for logits, expected in zip(
                variant.logit_blocks(hidden.flatten(end_dim=1)[rows]), probabilities, strict=True
            ):
                sums.append(logits.logsumexp(dim=-1))
                mean += logits.mul_(expected).sum(dim=-1)
            divergence[index] += (negative_entropy - mean + torch.stack(sums).logsumexp(dim=0)).double().sum().item()
            advance(len(mean))
    return divergence / len(tokens)
