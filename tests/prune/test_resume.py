"""A run that was killed continues where it was, and writes the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from edge_transact.errors import UsageError
from edge_transact.prune import PruneOptions, prune
from edge_transact.prune import run as pipeline
from edge_transact.prune.journal import Journal
from tests.support.interruption import KilledError, killed_after
from tests.support.pruning import TEXT, prune_command, weights_of


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> dict:
    text = tmp_path_factory.mktemp("calibration") / "text.txt"
    text.write_text(TEXT)
    return {"calibration": str(text), "calibration_tokens": 512}


@pytest.fixture(scope="module")
def uninterrupted(random_model, tmp_path_factory, options) -> Callable[[str], tuple[PruneOptions, str]]:
    """``uninterrupted(method)``: the options, and the weights' digest of a run that nothing interrupts."""

    @cache
    def run(method: str) -> tuple[PruneOptions, str]:
        whole = PruneOptions(ratio=0.4, method=method, compensate=True, shots=2, **options)
        directory = tmp_path_factory.mktemp(method) / "whole"
        prune(str(random_model), directory, whole)
        return whole, weights_of(directory)

    return run


@pytest.mark.parametrize("method", ["best", "transact", "llm-pruner"])
@pytest.mark.parametrize("after", [1, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15])
def test_the_same_bytes_wherever_it_was_interrupted(
    random_model, tmp_path: Path, uninterrupted, monkeypatch, method: str, after: int
) -> None:
    options, weights = uninterrupted(method)
    # Write the state after every layer, or after hardly any.
    monkeypatch.setattr("edge_transact.prune.journal.STATE_S", 0 if after % 2 else 60)
    with killed_after(after):
        prune(str(random_model), tmp_path / "out", options)
    assert not (tmp_path / "out").exists() and (tmp_path / ".out.prune").is_dir()
    prune(str(random_model), tmp_path / "out", options, resume=True)
    assert weights_of(tmp_path / "out") == weights
    assert not (tmp_path / ".out.prune").exists()


def test_known_results_are_not_computed_again(random_model, tmp_path: Path, options, monkeypatch) -> None:
    def fail(*_, **__):
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(pipeline, "write_checkpoint", fail)
        prune(str(random_model), tmp_path / "out", PruneOptions(ratio=0.4, **options))
    monkeypatch.setattr("edge_transact.prune.calibrate.layerwise.LayerwiseModel.run", fail)
    prune(str(random_model), tmp_path / "out", PruneOptions(ratio=0.4, **options), resume=True)


def test_other_options_are_refused(random_model, tmp_path: Path, options) -> None:
    journal = Journal(tmp_path / "out", {"seed": 1, "method": "best"}, resume=False)
    journal["score-0"] = {}
    with pytest.raises(UsageError, match="--resume with other options: method was best, now it is transact"):
        Journal(tmp_path / "out", {"seed": 1, "method": "transact"}, resume=True)
    assert "score-0" in Journal(tmp_path / "out", {"seed": 1, "method": "best"}, resume=True), "nothing was lost"


def test_without_resume_earlier_results_are_removed(tmp_path: Path) -> None:
    Journal(tmp_path / "out", {}, resume=False)["score-0"] = {}
    again = Journal(tmp_path / "out", {}, resume=False)
    assert "score-0" not in again
    again["score-1"] = {}
    assert "score-0" not in Journal(tmp_path / "out", {}, resume=True)


@pytest.mark.slow
def test_a_kill(random_model, tmp_path: Path, options) -> None:
    command = [sys.executable, "-m", "edge_transact", "prune", str(random_model), "--ratio", "0.4"]
    command += ["--calibration", options["calibration"], "--calibration-tokens", "512", "-o"]
    process = subprocess.Popen([*command, str(tmp_path / "out")], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob(".out.prune/score-*")):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0)
    if not (tmp_path / "out").exists():
        code, _, err = prune_command(*command[4:], tmp_path / "out", "--resume")
        assert code == 0 and "Going on with what is in" in err, err
    prune(str(random_model), tmp_path / "whole", PruneOptions(ratio=0.4, **options))
    assert weights_of(tmp_path / "out") == weights_of(tmp_path / "whole")
