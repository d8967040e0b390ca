"""The rounding of a build's weights, by its name. What was Q4_0 in a GGUF file keeps its codes: the grid is MLC's."""

from __future__ import annotations

import logging
from collections.abc import Set
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from edge_transact.checkpoint import Checkpoint
from edge_transact.gguf import q4_0
from edge_transact.gguf.layout import BLOCKS_FILE
from edge_transact.quantization import Quantization
from edge_transact.rounding.search import searching
from edge_transact.rounding.store import Rounded
from edge_transact.weights import w4
from edge_transact.weights.convert import ParameterSources, RoundingOf, is_packed
from edge_transact.weights.trained import TRAINED, TrainedRounding

logger = logging.getLogger(__name__)


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


def kept_matrices(checkpoint: Checkpoint, quantization: Quantization) -> frozenset[str]:
    """The names of the matrices whose Q4_0 codes the checkpoint has and the quantization can hold: bf16 can't."""
    file = checkpoint.path / BLOCKS_FILE
    if not file.is_file() or (quantization.grid, quantization.model_dtype) != (q4_0.GRID, "float16"):
        return frozenset()
    with safe_open(file, "np") as stored:
        return frozenset(stored.keys())


def keeping(checkpoint: Checkpoint, sources: ParameterSources, names: Set[str], rounding_of: RoundingOf) -> RoundingOf:
    """How parameters are rounded where the checkpoint has Q4_0's codes for `names`; `rounding_of` rounds others.

    A parameter may join such a matrix with others: then some of its rows are kept, and the others are rounded.
    """
    file = checkpoint.path / BLOCKS_FILE
    logger.info(f"keep the codes of {len(names)} Q4_0 matrices")

    def rounding(name: str) -> w4.RoundRows:
        parts, join = sources[name]
        if names.isdisjoint(parts):
            return rounding_of(name)
        blocks, kept = (torch.from_numpy(join(*rows)) for rows in zip(*map(rows_of, parts), strict=True))
        others = None if kept.all() else rounding_of(name)

        def replay(rows: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
            chosen = slice(first, first + len(rows))
            codes, scales = map(torch.from_numpy, q4_0.unpack(blocks[chosen].numpy()))
            codes = codes.to(torch.int8).flatten(start_dim=1)
            if others is None:
                return codes, scales
            rounded = others(rows, first)
            return torch.where(kept[chosen], codes, rounded[0]), torch.where(kept[chosen], scales, rounded[1])

        return replay

    def rows_of(part: str) -> tuple[np.ndarray, np.ndarray]:
        """The blocks of a matrix, zeros if it has none, and whether it has, ``[rows, 1]``."""
        rows, columns = checkpoint.shape(part)
        if part not in names:
            shape = (rows, columns // q4_0.BLOCK_WEIGHTS, q4_0.BLOCK_BYTES)
            return np.zeros(shape, np.uint8), np.zeros((rows, 1), bool)
        with safe_open(file, "np") as stored:
            return stored.get_tensor(part), np.ones((rows, 1), bool)

    return rounding
