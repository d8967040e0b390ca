"""Fits the scales of a rounded model to the exact model's predictions, which corrects errors across layers.

Codes stay. Every group's scale is multiplied by a factor near 1, and all factors are fitted together by gradient
descent on the divergence of the two models' predictions: one window a step, one pass over the windows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import torch

from edge_transact.cache.journal import Journal
from edge_transact.layerwise.model import LayerwiseModel, through
from edge_transact.progress import bar
from edge_transact.quantization import Quantization
from edge_transact.rounding.store import DISTILLED
from edge_transact.rounding.student import Student

logger = logging.getLogger(__name__)

STEP = "distill"

LEARNING_RATE = 1e-3
"""The largest relative change of a scale in a step: that for a gradient of at least the mean size in its matrix."""

DECAY = 0.9, 0.95
"""Of the running means of gradients and of their sizes."""

WARMUP_STEPS = 5

HELD_OUT = 8
"""One window in 8 is held out, to see how far fitting helps."""

FRACTIONS = (1.0, 0.75, 0.5, 0.25)
"""Of the change that the descent ends with, the one that predicts held-out text best is kept: the end is noisy."""

_STATE = "distilled-state"


@torch.no_grad()
def distill(
    model: LayerwiseModel, teachers: Sequence[LayerwiseModel], quantization: Quantization, journal: Journal
) -> None:
    """Fits the scales that `round_model` left in the journal, and adds the better ones to it, for `keep_rounded`.

    The target is the mean prediction of the teachers, which have the same windows and vocabulary as the model.
    """
    if DISTILLED in journal:
        return
    student = Student(model, teachers, quantization, journal)
    targets = [_last_hidden(teacher, journal) for teacher in teachers]
    order = torch.randperm(len(model.windows), generator=torch.Generator().manual_seed(0)).tolist()
    count = len(order) // HELD_OUT or len(order) // 2
    held_out, order = order[:count] or order, order[count:]

    def example(window: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return model.windows[window], [target[window] for target in targets]

    def divergence() -> float:
        each = [student.divergence(*example(window)) for window in held_out]
        return sum(each) / len(each)

    means = {name: torch.zeros_like(change) for name, change in student.changes.items()}
    sizes = {name: torch.zeros(()) for name in means}
    kinds = {"change": student.changes, "mean": means, "size": sizes}
    state = {f"{name}.{kind}": tensor for kind, of_kind in kinds.items() for name, tensor in of_kind.items()}
    done, before = _resumed(journal, state) if _STATE in journal else (0, divergence())
    with bar(STEP, len(order), done) as advance:
        for step in range(done, len(order)):
            rate = LEARNING_RATE * min(1, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * step / len(order))) / 2
            for name, gradient in student.gradients(*example(order[step])):
                descend(student.changes[name], means[name], sizes[name], gradient, rate, step + 1)
            numbers = {"steps": torch.tensor(step + 1), "before": torch.tensor(before, dtype=torch.float64)}
            journal.now_and_then(_STATE, numbers | state, last=step + 1 == len(order))
            advance(1)
    after, fraction, now, previous = before, 0.0, 1.0, math.inf
    for tried in FRACTIONS:
        student.scale_changes(tried / now)
        now, reached = tried, divergence()
        if reached < after:
            after, fraction = reached, tried
        if reached >= previous:
            break  # less of the change won't do better, either
        previous = reached
    logger.info(
        f"fit scales: KL to the exact model on held-out calibration text {before:.4f} -> {after:.4f}, "
        f"with {fraction:.0%} of the change"
    )
    if fraction:
        student.scale_changes(fraction / now)
        student.store()
    else:
        logger.warning("Scales fitted to the calibration text are no better on the part held out: they stay.")
    journal[DISTILLED] = student.scales if fraction else {}
    journal.discard(_STATE)


def _last_hidden(model: LayerwiseModel, journal: Journal) -> torch.Tensor:
    """The last layer's output for all windows, ``[windows, window, hidden_size]``."""
    hidden = model.embeddings(journal)
    for index in range(len(model.checkpoint.plan.layers)):
        through(model, model.layer(index), hidden)
    return hidden


def descend(
    change: torch.Tensor, mean: torch.Tensor, size: torch.Tensor, gradient: torch.Tensor, rate: float, number: int
) -> None:
    """Step `number`, from 1, of the changes of a matrix's scales, given the running means of gradients and sizes.

    As in Adam, a gradient of at least the mean size moves a scale by the rate. The size is that of the whole matrix:
    relative to their own, scales of tokens that the text doesn't have would move as far as all others.
    """
    mean.lerp_(gradient, 1 - DECAY[0])
    size.lerp_(gradient.abs().mean(), 1 - DECAY[1])
    typical = size / (1 - DECAY[1] ** number)
    if typical > 0:
        change.sub_((mean / (1 - DECAY[0] ** number) / typical).clamp_(-1, 1), alpha=rate)


def _resumed(journal: Journal, tensors: Mapping[str, torch.Tensor]) -> tuple[int, float]:
    """Reads the state into its tensors. Returns the number of steps done, and the divergence before the first."""
    numbers = {}
    # One tensor at a time: a 7B model's state takes 1.6 GiB.
    for name, tensor in journal.tensors(_STATE):
        if name in tensors:
            tensors[name].copy_(tensor)
        else:
            numbers[name] = tensor.item()
    return int(numbers["steps"]), numbers["before"]
