"""The rounding of a build's weights, by its name."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edge_transact.checkpoint import Checkpoint
from edge_transact.quantization import Quantization
from edge_transact.rounding.kept import keeping, kept_matrices
from edge_transact.rounding.search import searching
from edge_transact.rounding.store import Rounded
from edge_transact.weights import w4
from edge_transact.weights.convert import ParameterSources, RoundingOf, is_packed
from edge_transact.weights.trained import TRAINED, TrainedRounding


def rounding_named(
    name: str, checkpoint: Checkpoint, sources: ParameterSources, quantization: Quantization, codes: Path | None
) -> tuple[str | None, RoundingOf | None]:
    """How each parameter is rounded, and the name of that for a manifest; `None` twice without a 4-bit grid.

    Args:
        name: ``nearest``, ``search``, or `TRAINED`; any with `codes`.
        checkpoint: The checkpoint. Matrices of which it has codes keep them.
        codes: The directory that `keep_rounded` filled, if text was read.
    """
    if quantization.bits is None:
        return None, None
    if codes:
        return name, Rounded(codes, sources)
    if name == TRAINED:
        trained = TrainedRounding.of(checkpoint)
        assert trained
        return TRAINED, trained.rounding_of(sources)
    nearest = partial(w4.nearest, quantization=quantization)
    others = searching(checkpoint, sources, quantization) if name == "search" else lambda _: nearest
    kept = kept_matrices(checkpoint, quantization)
    if not kept:
        return name, others
    packed = {
        part
        for parameter, (parts, _) in sources.items()
        for part in parts
        if is_packed(parameter, checkpoint.shape(part), quantization)
    }
    return "kept" if packed <= kept else f"kept+{name}", keeping(checkpoint, sources, kept, others)
