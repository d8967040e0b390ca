"""What ``make check`` runs: the tests that a change concerns first."""

import subprocess

import pytest

from tests.support.examples import ROOT
from tools import affected
from tools.affected import ALWAYS, changed, importers


@pytest.mark.parametrize(
    ("file", "test"),
    [
        ("edge_transact/formatting.py", "tests/artifacts/test_outputs.py"),
        ("edge_transact/compiler/gpu/attention.py", "tests/compiler/test_gpu_matmul.py"),
        ("edge_transact/exporting/gguf.py", "tests/exporting/test_round_trip.py"),
        ("templates/edge-transact.toml.j2", "tests/test_project.py"),
        ("templates/android/edge/src/main/AndroidManifest.xml", "tests/bundling/test_android_project.py"),
        ("tests/support/dists.py", "tests/artifacts/test_manifest.py"),
        ("tests/compiler/conftest.py", "tests/compiler/test_targets.py"),
    ],
)
def test_a_change_concerns_what_imports_or_names_it(file, test):
    assert (ROOT / test).is_file() and test in affected.affected([file])


def test_every_change_concerns_pages_and_the_suite_and_few_concern_everything():
    assert {*affected.affected(["Makefile"])} == {*ALWAYS, "tests/test_affected.py"}, "which names it here"
    everything = {file for file in affected.python_files() if affected._is_test(file)}
    assert len(affected.affected(["edge_transact/cli/doctor.py"])) < len(everything) / 4


def test_imports_inside_functions_count():
    assert "edge_transact/cli/profile.py" in importers(["edge_transact/profiling/run.py"])


def test_changes_are_those_since_the_branch_left_and_those_git_does_not_know(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *words], cwd=tmp_path, check=True)

    monkeypatch.setattr(affected, "ROOT", tmp_path)
    git("init", "-q", "-b", "trunk")
    for name in ("old", "base", "mine"):
        (tmp_path / name).write_text("")
    git("add", "old")
    git("commit", "-qm", "old")
    git("checkout", "-qb", "work")
    git("add", "mine")
    git("commit", "-qm", "mine")
    git("checkout", "-q", "trunk")
    git("add", "base")
    git("commit", "-qm", "base")
    git("checkout", "-q", "work")
    (tmp_path / "new").write_text("")
    assert sorted(changed("trunk")) == ["mine", "new"]
    with pytest.raises(SystemExit, match="make check BASE=COMMIT"):
        changed("nowhere")
