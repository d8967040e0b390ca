"""`bundle --update`: the models of a project change, and nothing that others wrote into it."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from edge_transact.bundling import update as updating
from edge_transact.bundling.models import AppModels
from edge_transact.bundling.project import PACKAGE_CONFIG, bundle
from edge_transact.bundling.update import update
from edge_transact.errors import EdgeTransactError
from edge_transact.verification import verify
from tests.support.command import run, said
from tests.support.dists import make_dist
from tests.support.interruption import KilledError

pytestmark = pytest.mark.needs("clang-19")

NAMES = {"application_id": "com.example.notes", "app_name": "My Notes", "version_code": 7}
ASSETS = Path("app/src/main/assets/edge")
THEIRS = {
    "app/build.gradle": "// theirs\n", "edge/src/main/java/edgetransact/edge/Session.java": "// theirs\n",
    "app/src/main/java/com/example/Notes.kt": "class Notes\n", f"{ASSETS}/notes.txt": "theirs\n",
    "models/notes.txt": "theirs\n", "settings.gradle.local": "theirs\n",
}  # fmt: skip


@pytest.fixture(scope="module")
def dists(tmp_path_factory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("dists")
    return {
        "tiny": make_dist(home / "tiny"),
        "changed": make_dist(home / "changed/tiny", shards=[b"Weights", b"more"]),
        "other": make_dist(home / "other", ["android-cpu"], "edge_llama_q4f16_0_89abcdef", context=256),
        "third": make_dist(home / "third", ["android-cpu"], "edge_llama_q4f16_0_76543210", context=256),
    }


@pytest.fixture
def app(dists, tmp_path) -> Path:
    """A project with two models in which others work."""
    directory = bundle([dists["tiny"], dists["other"]], tmp_path / "app", **NAMES).directory
    for name, text in THEIRS.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        with (directory / name).open("a") as file:
            file.write(text)
    return directory


def everything(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def expected(app: Path, dists: list[Path], fresh: Path, before: dict[str, bytes], **options: str) -> dict[str, bytes]:
    """The files of a project with these models, with others' work as it was; its record is that of the project."""
    bundle(dists, fresh, **NAMES, **options)
    theirs = {name: content for name, content in before.items() if name in THEIRS}
    return {**everything(fresh), **theirs, "bundle.json": (app / "bundle.json").read_bytes()}


def test_models_change_and_what_others_wrote_stays(app, dists, tmp_path):
    before = everything(app)
    kept = (app / "models/other/params_shard_0.bin").stat()
    made = said("bundle", dists["changed"], dists["other"], dists["third"], "-o", app, "--update")
    assert made["application_id"] == NAMES["application_id"] and Path(made["package_config"]).is_file()
    assert [model["id"] for model in made["models"]] == ["tiny", "other", "third"]
    now = [dists["changed"], dists["other"], dists["third"]]
    assert everything(app) == expected(app, now, tmp_path / "fresh", before)
    assert json.loads((app / PACKAGE_CONFIG).read_text()) == json.loads(
        (tmp_path / "fresh" / PACKAGE_CONFIG).read_text()
    )
    again = (app / "models/other/params_shard_0.bin").stat()
    assert (again.st_ino, again.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns), "a model that stays isn't copied"
    wrong = {check.name.removeprefix(f"{app}/") for check in verify(app) if not check.ok}
    assert wrong == {"app/build.gradle", "edge/src/main/java/edgetransact/edge/Session.java"}

    # Fewer models, and the same again.
    for _ in range(2):
        update([dists["third"]], app)
        assert everything(app) == expected(app, [dists["third"]], tmp_path / f"fresh-{_}", before)
    assert {path.name for path in (app / "models").iterdir()} == {"third", "notes.txt"}
    assert bundle([dists["third"]], app, **NAMES, keep=True).models == AppModels.of_project(app).models, (
        "--build goes on"
    )


@pytest.mark.parametrize("name", ["models/tiny/params_shard_0.bin", f"{ASSETS}/models.json", PACKAGE_CONFIG])
def test_a_file_of_a_model_that_somebody_changed_is_not_replaced(app, dists, name):
    path = app / name
    text = path.read_text().replace(" ", "  ") if path.suffix == ".json" else "theirs"
    path.unlink()  # it may be linked with another
    path.write_text(text)
    before = everything(app)
    result = run("bundle", dists["third"], "-o", app, "--update")
    assert result.exit_code == 1 and f"{name} was changed" in result.stderr.replace("\n", "")
    assert everything(app) == before


def test_a_file_where_a_model_would_be_is_not_replaced(app, dists):
    (app / "models/third").mkdir()
    (app / "models/third/tokenizer.json").write_text("theirs")
    before = everything(app)
    with pytest.raises(EdgeTransactError, match=r"models/third/tokenizer\.json was changed"):
        update([dists["third"]], app)
    assert everything(app) == before


def test_code_that_depends_on_models_changes_where_nobody_changed_it(dists, tmp_path):
    """An asset pack is a module of its own that the app names."""
    app = bundle([dists["tiny"]], tmp_path / "app", **NAMES).directory
    update([dists["tiny"]], app, "pack")
    fresh = bundle([dists["tiny"]], tmp_path / "packs", **NAMES, weights="pack").directory
    assert everything(app) == everything(fresh)
    assert any("asset-pack" in file.read_text() for file in app.glob("*/build.gradle"))
    update([dists["tiny"]], app)
    assert everything(app) == everything(bundle([dists["tiny"]], tmp_path / "fresh", **NAMES).directory)
    for name in ("README.md", "settings.gradle"):
        with (app / name).open("a") as file:
            file.write("// theirs\n")
    before = everything(app)
    with pytest.raises(EdgeTransactError, match=r"settings\.gradle was changed"):
        update([dists["tiny"]], app, "pack")
    assert everything(app) == before
    update([dists["other"]], app)
    now = everything(app)
    assert now["README.md"] == before["README.md"] and now["settings.gradle"] == before["settings.gradle"]


@pytest.mark.parametrize("place", [0, 7, -1])
def test_a_killed_update_is_finished_by_the_next(app, dists, tmp_path, monkeypatch, place):
    """Killed before the first, a middle and the last change of the project. The next may name other models."""
    before, move, replace, unlink = everything(app), updating._move, os.replace, Path.unlink
    goal = [dists["changed"], dists["third"]]

    def moved(project: Path, die_at: int) -> int:
        done = []

        def counted(act, *arguments, **options):
            if len(done) == die_at:
                raise KilledError
            done.append(arguments)
            return act(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", partial(counted, replace))
            patched.setattr(Path, "unlink", lambda path, **options: counted(unlink, path, **options))
            move(project)
        return len(done)

    counts = []
    whole = Path(shutil.copytree(app, tmp_path / "whole"))
    monkeypatch.setattr(updating, "_move", lambda project: counts.append(moved(project, 1000)))
    update(goal, whole)
    assert counts[0] == 0 and counts[1] > 8
    monkeypatch.setattr(updating, "_move", lambda project: moved(project, place % counts[1]))
    with pytest.raises(KilledError):
        update(goal, app)
    monkeypatch.undo()
    last = [dists["third"]] if place == 7 else goal
    update(last, app)
    assert everything(app) == expected(app, last, tmp_path / "fresh", before)


def test_what_is_no_project_of_ours(app, dists, tmp_path):
    result = run("bundle", dists["tiny"], "-o", tmp_path / "none", "--update")
    assert result.exit_code == 1 and "is not an app's project" in result.stderr.replace("\n", "")
    assert not (tmp_path / "none").exists()
    with (app / "bundle.json").open("a") as file:
        file.write("\n")
    result = run("bundle", dists["tiny"], "-o", app, "--update")
    assert result.exit_code == 1 and "bundle.json was changed" in result.stderr.replace("\n", "")
    assert run("bundle", dists["tiny"], "-o", app, "--update", "--aar").exit_code == 2
    result = run("bundle", dists["tiny"], "-o", app, "--force")
    assert result.exit_code == 1 and "theirs" not in result.stderr
