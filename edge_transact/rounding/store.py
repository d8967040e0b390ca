"""Codes and scales of a model's matrices: in a journal while they are chosen, then in files that a build reads."""

from __future__ import annotations

import threading
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.layout import EMBEDDING, LM_HEAD
from edge_transact.quantization import Quantization
from edge_transact.weights import w4
from edge_transact.weights.convert import ParameterSources, RoundingOf

DISTILLED = "distilled"
"""The journal's group of scales that replace those found layer by layer."""

KEPT_WEIGHTS = 1 << 26
"""Parameters with more weights, such as embeddings, are rounded again rather than held in memory."""

CODES, SCALES = ".codes", ".scales"
"""What the journal calls the codes and scales of a matrix, after its name."""


class Rounded:
    """The codes and scales that `round_model` chose, from the files of `keep_rounded`, for `convert`."""

    def __init__(self, directory: Path, sources: ParameterSources) -> None:
        self._directory, self._sources = directory, sources

    def __call__(self, name: str) -> w4.RoundRows:
        """How the rows of a parameter of the definition are rounded: they are replaced by the chosen ones."""
        parts, join = self._sources[name]
        with safetensors.safe_open(self._directory / _file(group_of(parts[0])), "np") as group:
            codes, scales = (
                torch.from_numpy(join(*(group.get_tensor(part + kind) for part in parts))) for kind in (CODES, SCALES)
            )

        return replay(codes, scales)


def keep_rounded(journal: Journal, checkpoint: Checkpoint, directory: Path) -> None:
    fitted: dict[str, torch.Tensor] = {}
    if DISTILLED in journal:
        fitted.update(journal[DISTILLED])
    for group in groups_of(checkpoint):
        tensors = journal[group]
        tensors |= {name: fitted[name] for name in tensors if name in fitted}
        safetensors.torch.save_file(tensors, directory / _file(group))


def groups_of(checkpoint: Checkpoint) -> list[str]:
    """The journal's groups of all matrices, in the order in which a model computes."""
    layers = [f"model.layers.{index}." for index in range(len(checkpoint.plan.layers))]
    heads = [] if checkpoint.plan.tie_word_embeddings else [LM_HEAD]
    return [group_of(name) for name in (EMBEDDING, *layers, *heads)]


def group_of(name: str) -> str:
    """The journal's group that holds a matrix of the checkpoint, or a layer's, given its prefix."""
    return f"rounded-{name.split('.')[2]}" if name.startswith("model.layers.") else f"rounded-{name}"


def _file(group: str) -> str:
    return f"{group}.safetensors"


def levels(codes: torch.Tensor, quantization: Quantization) -> torch.Tensor:
    """The factors of scales, fp32 ``[rows, groups, 32]``."""
    return w4.grouped(codes.float(), quantization) - quantization.zero_point


def dequantized(codes: torch.Tensor, scales: torch.Tensor, columns: int, quantization: Quantization) -> torch.Tensor:
    """The values of codes and scales, fp32 ``[rows, columns]``."""
    return (levels(codes, quantization) * scales.float()[..., None]).flatten(start_dim=1)[:, :columns]


def replay(codes: torch.Tensor, scales: torch.Tensor) -> w4.RoundRows:
    """A rounding of rows to codes and scales that are known."""

    def rounding(rows: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = slice(first, first + len(rows))
        return codes[chosen].clone(), scales[chosen]

    return rounding


def resumable(
    checkpoint: Checkpoint, sources: ParameterSources, rounding_of: RoundingOf, journal: Journal
) -> RoundingOf:
    """The same rounding, from the journal where that has it; codes and scales of whole parameters are added to it."""
    groups = {name: f"rounded-{number}" for number, name in enumerate(sources)}

    def rounding(name: str) -> w4.RoundRows:
        shapes = [checkpoint.shape(part) for part in sources[name][0]]
        rows = sum(shape[0] for shape in shapes)
        if rows * shapes[0][1] > KEPT_WEIGHTS:
            return rounding_of(name)
        if groups[name] in journal:
            return replay(**journal[groups[name]])
        return _record(rounding_of(name), rows, journal, groups[name])

    return rounding


def _record(inner: w4.RoundRows, total: int, journal: Journal, group: str) -> w4.RoundRows:
    """`inner`, whose results go to the journal when there are `total` rows of them. Several threads may call it."""
    found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    lock = threading.Lock()

    def rounding(rows: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        codes, scales = inner(rows, first)
        with lock:
            found[first] = codes.clone(), scales
            if sum(len(scales) for _, scales in found.values()) == total:
                both = zip(*(found[first] for first in sorted(found)), strict=True)
                journal[group] = dict(zip(("codes", "scales"), map(torch.cat, both), strict=True))
        return codes, scales

    return rounding
