"""A model that was pruned, and text to train on."""

from pathlib import Path

import pytest

from edge_transact.prune.options import PruneOptions
from edge_transact.prune.run import prune
from tests.support.pruning import TEXT


@pytest.fixture(scope="session")
def training_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("training") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def pruned_model(random_model: Path, tmp_path_factory: pytest.TempPathFactory, training_text: Path) -> Path:
    """`random_model` without 40 % of its attention and MLP parameters."""
    path = tmp_path_factory.mktemp("pruned") / "pruned"
    options = PruneOptions(ratio=0.4, method="transact", calibration=str(training_text), calibration_tokens=512)
    prune(str(random_model), path, options)
    return path
