"""A run that was killed continues where it was, and writes the same bytes."""

import itertools
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from edge_transact.cache.journal import Journal
from edge_transact.errors import UsageError
from edge_transact.pruning import run as pipeline
from edge_transact.pruning.options import PruneOptions
from edge_transact.pruning.run import prune
from tests.support.damage import DAMAGE
from tests.support.interruption import KilledError, ended_after, killed_after, write_every_state
from tests.support.pruning import weights_of


@pytest.fixture(scope="module")
def uninterrupted(random_model, tmp_path_factory, calibration) -> Callable[[str], tuple[PruneOptions, str]]:
    """``uninterrupted(method)``: the options, and the weights' digest of a run that nothing interrupts."""

    @cache
    def run(method: str) -> tuple[PruneOptions, str]:
        whole = PruneOptions(ratio=0.4, method=method, compensate=True, shots=2, **calibration)
        directory = tmp_path_factory.mktemp(method) / "whole"
        prune(str(random_model), directory, whole)
        return whole, weights_of(directory)

    return run


@pytest.fixture(autouse=True)
def unfinished(own_cache: Path) -> Path:
    """What a run of this file keeps: of no other test, and no other process."""
    return own_cache / "unfinished"


@pytest.fixture
def whole(calibration: dict) -> PruneOptions:
    return PruneOptions(ratio=0.4, **calibration)


@pytest.mark.parametrize(
    ("method", "after"),
    [
        pytest.param(
            method, after, marks=[] if (method == "obs" and after % 3 == 1) or after == 9 else pytest.mark.soak
        )
        for method in ("obs", "transact", "llm-pruner")
        for after in (1, 4, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    ],
)
def test_the_same_bytes_wherever_it_was_interrupted(
    random_model, tmp_path: Path, uninterrupted, unfinished, monkeypatch, method: str, after: int
) -> None:
    options, weights = uninterrupted(method)
    # Write the state after every layer, or after hardly any.
    if after % 2:
        write_every_state(monkeypatch)
    else:
        monkeypatch.setattr("edge_transact.cache.journal.STATE_S", 60)
    with killed_after(after):
        prune(str(random_model), tmp_path / "out", options)
    assert not (tmp_path / "out").exists() and list(unfinished.iterdir())
    prune(str(random_model), tmp_path / "other", options, resume=True)
    assert weights_of(tmp_path / "other") == weights
    assert not list(unfinished.iterdir())


def test_known_results_are_not_computed_again(random_model, tmp_path: Path, whole, monkeypatch) -> None:
    def fail(*_, **__):
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(pipeline, "write_checkpoint", fail)
        prune(str(random_model), tmp_path / "out", whole)
    monkeypatch.setattr("edge_transact.layerwise.model.LayerwiseModel.run", fail)
    prune(str(random_model), tmp_path / "out", whole)


def test_other_options_start_afresh_and_leave_what_is_kept(random_model, tmp_path, calibration, unfinished) -> None:
    seven, other = (PruneOptions(ratio=0.4, seed=seed, **calibration) for seed in (7, 8))
    with killed_after(3):
        prune(str(random_model), tmp_path / "out", seven)
    (kept,) = unfinished.iterdir()
    with pytest.raises(UsageError, match="--resume with other options: seed was 7, now it is 8"):
        prune(str(random_model), tmp_path / "out", other, resume=True)
    prune(str(random_model), tmp_path / "out", other)
    assert list(unfinished.iterdir()) == [kept] and len(Journal(kept).names()) == 3
    with killed_after(0):
        prune(str(random_model), tmp_path / "new", seven, fresh=True)
    assert not list(unfinished.iterdir())
    with pytest.raises(UsageError, match="nothing is kept of prune"):
        prune(str(random_model), tmp_path / "new", seven, resume=True)


def test_another_version_starts_afresh(random_model, tmp_path: Path, whole, monkeypatch) -> None:
    with killed_after(1):
        prune(str(random_model), tmp_path / "out", whole)
    monkeypatch.setattr(pipeline, "code_of", lambda *functions: "of another version")
    with pytest.raises(UsageError, match=r"code was .*, now it is \"of another version\""):
        prune(str(random_model), tmp_path / "out", whole, resume=True)


def test_other_weights_under_the_same_name_start_afresh(random_model, tmp_path: Path, whole) -> None:
    shutil.copytree(random_model, tmp_path / "model")
    with killed_after(3):
        prune(str(tmp_path / "model"), tmp_path / "out", whole)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UsageError, match="--resume with other options: source was"):
        prune(str(tmp_path / "model"), tmp_path / "out", whole, resume=True)


@pytest.mark.parametrize(
    ("method", "after", "group", "damage"),
    [("obs", 9, 4, "a bit"), ("obs", 12, 0, "truncated"), ("transact", 7, 2, "a bit of its first byte")],
)
def test_damaged_work_is_made_again(
    random_model, tmp_path: Path, uninterrupted, unfinished, caplog, method: str, after: int, group: int, damage: str
) -> None:
    options, weights = uninterrupted(method)
    with killed_after(after):
        prune(str(random_model), tmp_path / "out", options)
    (kept,) = unfinished.iterdir()
    name = Journal(kept).names()[group]
    DAMAGE[damage](kept / f"{name}.safetensors")
    prune(str(random_model), tmp_path / "out", options)
    assert f"{name} in {kept} is damaged: making it again" in caplog.text
    assert weights_of(tmp_path / "out") == weights
    assert not list(unfinished.iterdir())


@pytest.mark.soak
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("method", ["obs", "transact", "llm-pruner"])
def test_every_group_can_be_made_again(
    random_model, tmp_path: Path, uninterrupted, unfinished, method: str, damage: str
) -> None:
    options, weights = uninterrupted(method)
    for after in itertools.takewhile(lambda _: not (tmp_path / "whole").exists(), range(1, 60, 3)):
        with ended_after(after), suppress(KilledError):
            prune(str(random_model), tmp_path / "whole", options)
        for kept in list(unfinished.iterdir()):
            shutil.move(kept, tmp_path / "kept")
            for name in Journal(tmp_path / "kept").names():
                shutil.copytree(tmp_path / "kept", kept)
                DAMAGE[damage](kept / f"{name}.safetensors")
                prune(str(random_model), tmp_path / "out", options)
                assert weights_of(tmp_path / "out") == weights, (after, name)
                shutil.rmtree(tmp_path / "out")
            shutil.rmtree(tmp_path / "kept")
    assert (tmp_path / "whole").exists()
