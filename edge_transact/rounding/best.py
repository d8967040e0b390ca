"""``--rounding best``: codes from GPTQ, then scales from distillation, from different text if there is enough."""

from __future__ import annotations

import torch

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.quantization import Quantization
from edge_transact.rounding.calibrated import round_model
from edge_transact.rounding.distillation import distill

CODES_TOKENS, SCALES_TOKENS = 8192, 16384
"""The most tokens that each of both steps reads, so that more text takes no more time."""


def round_best(
    checkpoint: Checkpoint,
    teacher: Checkpoint | None,
    windows: torch.Tensor,
    quantization: Quantization,
    journal: Journal,
) -> list[str]:
    """Rounds all matrices of a model, for `keep_rounded`. Returns the matrices with too little text, as `round_model`
    does.

    `teacher` is the model that it was pruned from, if it was, and `windows` are calibration text, int64 ``[windows,
    window]``. An interrupted run continues with the journal.
    """
    shuffled = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))]
    window = windows.shape[1]
    for_codes = shuffled[: max(1, CODES_TOKENS // window)]
    for_scales = shuffled[-max(1, SCALES_TOKENS // window) :]
    searched = round_model(LayerwiseModel(checkpoint, for_codes), quantization, journal)
    model = LayerwiseModel(checkpoint, for_scales)
    teachers = [model] if teacher is None else [model, LayerwiseModel(teacher, for_scales)]
    distill(model, teachers, quantization, journal)
    return searched
