"""The last norm scaled so that the pruned model is as sure of its predictions as it should be.

A cut model is nearly as sure as the whole one was, and more often wrong. Logits are linear in the last norm's weight,
so that one factor there is the temperature of temperature scaling (Guo et al., 2017); the loss is convex in it, and a
few Newton steps find it. The order of predictions stays: greedy answers don't change.
"""

from __future__ import annotations

import torch

from edge_transact.prune.layerwise import LOGITS_TOKENS, LayerwiseModel

NAME = "model.norm.weight"

TOKENS = 8192
"""Of the calibration text: one number doesn't take more."""

STEPS = 4


@torch.no_grad()
def last_norm_scale(model: LayerwiseModel, hidden: torch.Tensor) -> float:
    """The factor on logits at which the calibration text is the most likely.

    Args:
        model: The source, for its last norm and `lm_head`, and the calibration windows.
        hidden: The pruned model's last layer's output, ``[windows, window, hidden_size]``.

    Returns:
        1 where no factor is found: the loss has no curvature, or the factor would be none above 0.
    """
    step = max(1, model.windows.numel() // TOKENS)
    states = hidden[::step, :-1].flatten(end_dim=1)
    labels = model.windows[::step, 1:].flatten()
    scale = 1.0
    for _ in range(STEPS):
        slope, curvature = 0.0, 0.0
        for piece, following in zip(states.split(LOGITS_TOKENS), labels.split(LOGITS_TOKENS), strict=True):
            logits = model.logits(piece)
            likely = (scale * logits).softmax(dim=-1)
            mean = (likely * logits).sum(dim=-1)
            slope += (mean - logits.gather(1, following.to(logits.device)[:, None])[:, 0]).sum().item()
            curvature += ((likely * logits.square()).sum(dim=-1) - mean.square()).sum().item()
        if not curvature > 0 or not scale - slope / curvature > 0:
            return 1.0
        scale -= slope / curvature
    return scale
