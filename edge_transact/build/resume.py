"""Keeps how weights are rounded in a journal, parameter by parameter, so that an interrupted conversion goes on."""

from __future__ import annotations

import threading

import torch

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint
from edge_transact.weights import w4
from edge_transact.weights.convert import ParameterSources, RoundingOf

KEPT_WEIGHTS = 1 << 26
"""Parameters with more weights are rounded again: memory would have to hold their codes, a byte each, until all of them
are known. In large models these are embeddings, a small part of the work."""


def resumable(
    checkpoint: Checkpoint, sources: ParameterSources, rounding_of: RoundingOf, journal: Journal
) -> RoundingOf:
    """The same rounding, which is taken from the journal where that has it.

    Args:
        checkpoint: The source of the weights.
        sources: The definition's parameters.
        rounding_of: How they are rounded.
        journal: Where codes and scales go when all rows of a parameter are rounded.
    """
    groups = {name: f"rounded-{number}" for number, name in enumerate(sources)}

    def rounding(name: str) -> w4.RoundRows:
        shapes = [checkpoint.shape(part) for part in sources[name][0]]
        rows = sum(shape[0] for shape in shapes)
        if rows * shapes[0][1] > KEPT_WEIGHTS:
            return rounding_of(name)
        if groups[name] in journal:
            return _replay(**journal[groups[name]])
        return _record(rounding_of(name), rows, journal, groups[name])

    return rounding


def _replay(codes: torch.Tensor, scales: torch.Tensor) -> w4.RoundRows:
    def rounding(rows: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = slice(first, first + len(rows))
        return codes[chosen].clone(), scales[chosen]

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
