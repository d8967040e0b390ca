"""Scales the last norm so that the pruned model's confidence matches its accuracy.

A pruned model is nearly as confident as its source, and more often wrong. One factor on the last norm's weight is the
temperature of temperature scaling (Guo et al., 2017). The loss is convex in it, and a few Newton steps find it. Greedy
answers don't change.
"""

from __future__ import annotations

import torch

from edge_transact.layerwise.model import LOGITS_TOKENS, LayerwiseModel
from edge_transact.progress import bar

NAME = "model.norm.weight"

STEP = "scale the last norm"

TOKENS = 4096
"""The most calibration tokens that are used, which are enough for one number."""

STEPS = 4
"""The largest number of Newton steps."""

LAST_STEP = 3e-3
"""A step shorter than this is the last. Convergence is quadratic: the next would change the factor by about 1e-5."""


@torch.no_grad()
def last_norm_scale(model: LayerwiseModel, hidden: torch.Tensor) -> float:
    """The factor on logits at which the calibration text is most likely.

    `hidden` is the output of the pruned model's last layer, ``[windows, window, hidden_size]``. The factor is 1 if none
    is found, because the loss has no curvature or the factor would not be above 0.
    """
    step = max(1, -(-model.windows.numel() // TOKENS))
    states = hidden[::step, :-1].flatten(end_dim=1)
    labels = model.windows[::step, 1:].flatten()
    scale = 1.0
    with bar(STEP, STEPS * len(labels)) as advance:
        for _ in range(STEPS):
            slope, curvature = 0.0, 0.0
            for piece, following in zip(states.split(LOGITS_TOKENS), labels.split(LOGITS_TOKENS), strict=True):
                mean, square, expected = _moments(model, piece, following.to(model.device), scale)
                slope += (mean - expected).sum().item()
                curvature += (square - mean.square()).sum().item()
                advance(len(piece))
            if not curvature > 0 or not scale - slope / curvature > 0:
                return 1.0
            scale -= slope / curvature
            if abs(slope / curvature) < LAST_STEP:
                break
    return scale


def _moments(model: LayerwiseModel, hidden: torch.Tensor, labels: torch.Tensor, scale: float) -> list[torch.Tensor]:
    """By token, fp32: the mean and mean square of its logits under the scaled softmax, and the label's logit."""
    largest, sums, moments = [], [], []
    expected = torch.zeros(len(labels), device=labels.device)
    first = 0
    for logits in model.logit_blocks(hidden):
        inside = labels - first
        first += logits.shape[1]
        found = logits.gather(1, inside.clamp(0, logits.shape[1] - 1)[:, None])[:, 0]
        expected += torch.where((inside >= 0) & (inside < logits.shape[1]), found, 0.0)
        largest.append(logits.amax(dim=-1))
        weights = logits.sub(largest[-1][:, None]).mul_(scale).exp_()
        sums.append(weights.sum(dim=-1))
        weights *= logits
        moments.append(torch.stack([weights.sum(dim=-1), weights.mul_(logits).sum(dim=-1)]))
    tops = torch.stack(largest)
    shares = (scale * (tops - tops.amax(dim=0))).exp()
    total = (shares * torch.stack(sums)).sum(dim=0)
    return [*((shares[:, None] * torch.stack(moments)).sum(dim=0) / total), expected]
