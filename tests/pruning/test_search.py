"""The search for widths: what a supernet holds, which plans it compares, and that it can be interrupted."""

from pathlib import Path
from random import Random

import pytest
import torch

from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint
from edge_transact.layerwise.model import LayerwiseModel
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import prune
from tests.support.pruning import weights_of


@pytest.fixture
def options(calibration: dict) -> PruneOptions:
    return PruneOptions(
        ratio=0.4, bucket=8, search=True, search_generations=4, search_tokens=256, seed=1, **calibration
    )


def test_a_search_lowers_the_divergence_within_the_limits(random_model: Path, tmp_path: Path, options) -> None:
    result = prune(str(random_model), tmp_path / "out", options)
    print(result.notes, result.seconds)
    for g in result.searched:
        print(g.round, g.divergences)
