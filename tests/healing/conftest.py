"""A model that was pruned."""

from pathlib import Path

import pytest

from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import prune


@pytest.fixture(scope="session")
def pruned_model(random_model: Path, tmp_path_factory: pytest.TempPathFactory, calibration: dict) -> Path:
    """`random_model` without 40 % of its attention and MLP parameters."""
    path = tmp_path_factory.mktemp("pruned") / "pruned"
    prune(str(random_model), path, PruneOptions(ratio=0.4, method="transact", **calibration))
    return path
