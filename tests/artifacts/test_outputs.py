"""Output directories: complete or absent, whatever ends the run that writes them."""

import subprocess
import sys
from pathlib import Path

import pytest

from edge_transact.artifacts.outputs import new_directory, refuse_existing
from edge_transact.errors import EdgeTransactError, UsageError

KILLED = """
import os, pathlib, signal, sys
from edge_transact.artifacts import outputs
path = pathlib.Path(sys.argv[1])
if sys.argv[2] == "renaming":
    replace = os.replace
    os.replace = lambda a, b: replace(a, b) if b.name == "old" else os.kill(os.getpid(), signal.SIGKILL)
with outputs.new_directory(path, force=True) as directory:
    (directory / "half").write_text("half")
    if sys.argv[2] == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path, while_: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), while_], timeout=60)
    assert done.returncode == -9


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_an_output_is_complete_when_it_appears(tmp_path):
    with new_directory(tmp_path / "a" / "out") as directory:
        (directory / "file").write_text("text")
        assert not (tmp_path / "a" / "out").exists()
    assert names(tmp_path / "a") == {"out"} and names(tmp_path / "a" / "out") == {"file"}


def test_a_failure_keeps_the_old_output(tmp_path):
    with new_directory(tmp_path / "out") as directory:
        (directory / "first").touch()
    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / "out", force=True):
        raise KeyboardInterrupt
    with pytest.raises(EdgeTransactError, match="exists"), new_directory(tmp_path / "out"):
        pass
    assert names(tmp_path) == {"out"} and names(tmp_path / "out") == {"first"}


def test_the_working_directory_and_inputs_are_never_replaced(tmp_path, monkeypatch):
    here, model = tmp_path / "project" / "here", tmp_path / "models" / "llama"
    for directory in (here, model):
        directory.mkdir(parents=True)
    monkeypatch.chdir(here)
    for path in (Path("."), here, Path(".."), tmp_path, model, model.parent):
        with pytest.raises(UsageError, match="would replace"):
            refuse_existing(path, force=True, apart_from=["org/name", model])
    with pytest.raises(UsageError, match="would replace"), new_directory(Path("."), force=True):
        pass
    refuse_existing(model / "pruned", force=True, apart_from=["org/name", model])
    assert here.is_dir() and model.is_dir()


def test_the_next_run_removes_the_remains_of_a_killed_one(tmp_path):
    killed(tmp_path / "out", "writing")
    assert len(names(tmp_path)) == 1 and not (tmp_path / "out").exists()
    with new_directory(tmp_path / "out"):
        pass
    assert names(tmp_path) == {"out"}


def test_an_output_that_a_killed_run_moved_away_is_restored(tmp_path):
    with new_directory(tmp_path / "out") as directory:
        (directory / "first").touch()
    killed(tmp_path / "out", "renaming")
    assert not (tmp_path / "out").exists()
    with pytest.raises(EdgeTransactError, match="exists"), new_directory(tmp_path / "out"):
        pass
    assert names(tmp_path) == {"out"} and names(tmp_path / "out") == {"first"}


def test_workspaces_in_use_and_other_directories_are_kept(tmp_path):
    (tmp_path / ".out-mine").mkdir()
    with new_directory(tmp_path / "out") as first:
        with new_directory(tmp_path / "out"):
            pass
        assert first.is_dir() and names(tmp_path) >= {"out", ".out-mine"}
        with pytest.raises(EdgeTransactError, match="exists"), new_directory(tmp_path / "out"):
            pass
        (tmp_path / "out").rmdir()
    assert names(tmp_path) == {"out", ".out-mine"}
