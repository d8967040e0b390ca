"""Scores that a second pruning takes from the first one's, whatever size it asks for."""

from pathlib import Path

import pytest

from edge_transact import cache
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import prune
from edge_transact.pruning.score import sensitivity
from edge_transact.pruning.score.passes import Scoring
from tests.support.pruning import weights_of


@pytest.fixture
def passes(own_cache: Path, monkeypatch) -> list[str]:
    """What is measured from now on, in a cache of its own."""
    seen: list[str] = []

    def watched(owner: object, name: str, title: str) -> None:
        original = getattr(owner, name)

        def call(*args):
            seen.append(title)
            return original(*args)

        monkeypatch.setattr(owner, name, call)

    watched(Scoring, "run", "scores")
    watched(sensitivity, "_measure", "sensitivity")
    return seen


def test_a_second_ratio_measures_nothing_again(random_model, calibration, tmp_path: Path, passes, monkeypatch) -> None:
    """And its checkpoint is the one that is written where nothing is known yet, byte for byte."""
    prune(str(random_model), tmp_path / "first", PruneOptions(ratio=0.4, **calibration))
    assert passes == ["scores", "sensitivity"]
    second = PruneOptions(ratio=0.2, **calibration)
    prune(str(random_model), tmp_path / "second", second)
    assert passes == ["scores", "sensitivity"]
    monkeypatch.setattr(cache, "enabled", False)
    prune(str(random_model), tmp_path / "alone", second)
    assert passes == ["scores", "sensitivity"] * 2
    assert weights_of(tmp_path / "second") == weights_of(tmp_path / "alone")


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"calibration_tokens": 256}, {"method": "wanda", "allocation": "budgeted"}, {"drop": False}],
)
def test_what_scores_depend_on_is_measured_again(random_model, calibration, tmp_path: Path, passes, changed) -> None:
    prune(str(random_model), tmp_path / "first", PruneOptions(ratio=0.4, **calibration))
    del passes[:]
    prune(str(random_model), tmp_path / "second", PruneOptions(ratio=0.4, **calibration | changed))
    assert passes == (["sensitivity"] if "drop" in changed else ["scores", "sensitivity"])
