"""Helpers for tests of pruning: a calibration text, scores of a model, and a checkpoint's digest."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest
    import torch

    from edge_transact.checkpoint import Checkpoint
    from edge_transact.pruning.cut import LayerSelection
    from edge_transact.pruning.scores import LayerScores
    from edge_transact.widths import LayerWidths

TEXT = "\n\n".join(f"Chapter {number}. It was a year of {number * 7} ships and wars." for number in range(300))
"""A calibration text of some thousand tokens."""


def another_cache(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, but that it knows where the sources of checkpoints lie."""
    from edge_transact.cache import cache_directory

    known = cache_directory() / "sources"
    known.mkdir(parents=True, exist_ok=True)
    path.mkdir()
    (path / "sources").symlink_to(known)
    monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(path))
    return path


def everything(source: Checkpoint) -> list[LayerSelection]:
    from edge_transact.pruning.cut import LayerSelection

    return [LayerSelection.everything(layer) for layer in source.plan.layers]


def scores_of(
    source: Checkpoint, windows: torch.Tensor, method: str, kept: list[LayerSelection] | None = None, seed: int = 0
) -> list[LayerScores]:
    """A method's scores of all layers, or of what is kept of them."""
    from edge_transact.cache.journal import Journal
    from edge_transact.layerwise.model import LayerwiseModel
    from edge_transact.pruning.options import find_method
    from edge_transact.pruning.score.passes import Scoring

    journal, model = Journal(Path(tempfile.mkdtemp(dir=source.path.parent))), LayerwiseModel(source, windows)
    return Scoring(model, kept or everything(source), find_method(method), journal, "score", seed).layers()


def cut_at_random(source: Checkpoint, layers: Sequence[LayerWidths], directory: Path) -> Checkpoint:
    """The source with layers of these widths, of drawn heads and dims."""
    import torch

    from edge_transact.checkpoint import write_checkpoint
    from edge_transact.pruning.cut import pruned_tensors, select
    from edge_transact.pruning.scores import LayerScores

    draw, selections = torch.Generator().manual_seed(0), []
    for layer, widths in zip(source.plan.layers, layers, strict=True):
        groups, pairs = layer.num_key_value_heads, layer.qk_head_dim // 2
        sizes = (layer.num_attention_heads,), (groups, layer.v_head_dim), (groups, pairs), (layer.intermediate_size,)
        selections.append(select(LayerScores(*(torch.rand(size, generator=draw) for size in sizes)), widths))
    return write_checkpoint(source, source.plan.with_layers(layers), pruned_tensors(source, selections), {}, directory)


def weights_of(directory: Path) -> str:
    """The sha256 of a checkpoint's weights."""
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
