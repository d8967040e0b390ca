"""An app's weights on the phone: copied out of it or installed, verified, and what can go wrong."""

import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from edge_transact.bundling.project import bundle
from tests.support.dists import make_dist
from tests.support.edge_app import BOTH, SHARD, Core, Failed, change, entry, same, wait_until
from tests.support.patience import HANG_S

pytestmark = pytest.mark.needs("java", "javac")


@pytest.fixture
def places(app, request) -> dict[str, Path]:
    """The directories of a phone, whose app has the model ``short``."""
    app.read(app.entry("short"))
    return app.phone(request.node.name)


def test_weights_are_copied_once(app, places):
    result = app.core("prepare", id="short", **places)
    assert result["path"] == str(places["internal"] / "short")
    assert same(places["internal"] / "short", app.assets / "short")
    total = sum(file["bytes"] for file in app.entry("short")["files"])
    assert {(stage, all_of_it) for stage, _, all_of_it in result["progress"]} == {("COPY", total)}
    done = [done for _, done, _ in result["progress"]]
    assert done == sorted(done) and (done[0], done[-1]) == (0, total)
    assert app.core("prepare", id="short", **places)["progress"] == []


@pytest.mark.needs("clang-19")
def test_what_bundle_writes_is_what_the_app_reads(app, places, tmp_path):
    name = 'o\'dd "$(reboot)" <&>😀'
    project = bundle([make_dist(tmp_path / name)], tmp_path / "app")
    assets = project.directory / "app/src/main/assets/edge"
    (model,) = app.core("models", json=(assets / "models.json").read_text())["models"]
    assert model["name"] == name
    places["assets"] = assets
    app.core("prepare", id=model["id"], **places)
    assert same(places["internal"] / model["id"], project.directory / "models" / model["id"])


def test_a_copy_is_given_up(app, places):
    with pytest.raises(ValueError, match="interrupted"):
        app.core("prepare", id="short", interrupt="COPY", **places)
    assert not (places["internal"] / "short").exists()
    app.core("prepare", id="short", **places)
    assert same(places["internal"] / "short", app.assets / "short")


def test_a_damaged_copy_is_made_again(app, places):
    app.core("prepare", id="short", **places)
    change(places["internal"] / "short" / SHARD)
    (places["internal"] / "short" / "tokenizer.json").unlink()
    app.core("prepare", id="short", **places)
    assert same(places["internal"] / "short", app.assets / "short")


def test_an_update_of_the_app_brings_other_weights(app, places, tmp_path):
    app.core("prepare", id="short", **places)
    places["assets"] = tmp_path
    shutil.copytree(app.assets / "short", tmp_path / "short")
    change(tmp_path / "short" / SHARD)
    (tmp_path / "short" / "tokenizer_config.json").rename(tmp_path / "short" / "special_tokens_map.json")
    app.read(entry(tmp_path / "short", BOTH))
    app.core("prepare", id="short", **places)
    assert same(places["internal"] / "short", tmp_path / "short")
    app.read(app.entry("long"))
    app.core("keep_only", **places)
    assert list(places["internal"].iterdir()) == []


def test_a_model_that_an_update_has_people_install_leaves_no_copy(app, places):
    app.core("prepare", id="short", **places)
    app.read(app.entry("short", weights="install"))
    app.core("keep_only", **places)
    assert not (places["internal"] / "short").exists()


def test_a_damaged_or_missing_asset(app, places, tmp_path):
    places["assets"] = tmp_path
    shutil.copytree(app.assets / "short", tmp_path / "short")
    change(tmp_path / "short" / SHARD)
    with pytest.raises(Failed) as failed:
        app.core("prepare", id="short", **places)
    assert (failed.value.code, failed.value.fields["detail"]) == ("WEIGHTS_DAMAGED", SHARD)
    (tmp_path / "short" / SHARD).unlink()
    with pytest.raises(Failed) as failed:
        app.core("prepare", id="short", **places)
    assert (failed.value.code, failed.value.fields["detail"]) == ("WEIGHTS_MISSING", f"short/{SHARD}")
    assert not (places["internal"] / "short").exists()


def test_installed_weights(app, places):
    app.read(app.entry("short", weights="install"))
    directory = places["external"] / "short"

    def code() -> str:
        with pytest.raises(Failed) as failed:
            app.core("prepare", id="short", **places)
        return failed.value.code

    assert code() == "WEIGHTS_MISSING"
    shutil.copytree(app.assets / "short", directory)
    os.truncate(directory / SHARD, 1000)
    assert code() == "WEIGHTS_MISSING"
    shutil.copy(app.assets / "short" / SHARD, directory)
    change(directory / SHARD)
    assert code() == "WEIGHTS_DAMAGED"
    shutil.copy(app.assets / "short" / SHARD, directory)
    # What was written just now may be written again without another time: it isn't remembered.
    for _ in range(2):
        result = app.core("prepare", id="short", **places)
        assert result["path"] == str(directory) and {stage for stage, *_ in result["progress"]} == {"VERIFY"}
    long_ago = time.time() - 3600
    for path in directory.iterdir():
        os.utime(path, (long_ago, long_ago))
    assert app.core("prepare", id="short", **places)["progress"] != []
    assert app.core("prepare", id="short", **places)["progress"] == []
    # A later change of a file changes its time.
    change(directory / SHARD)
    assert code() == "WEIGHTS_DAMAGED"


def test_a_pack_that_is_installed_with_the_app_is_copied_like_assets(app, places):
    app.read(app.entry("short", weights="pack"))
    app.core("prepare", id="short", **places)
    app.core("keep_only", **places)
    assert same(places["internal"] / "short", app.assets / "short")


def test_a_pack_that_comes_after_the_app_is_used_where_it_is(app, places, tmp_path):
    app.read(app.entry("short", weights="fast-follow", pack="model_short"))
    places["packs"] = tmp_path
    with pytest.raises(Failed) as failed:
        app.core("prepare", id="short", **places)
    assert (failed.value.code, failed.value.fields["detail"]) == ("WEIGHTS_MISSING", "model_short")
    delivered = tmp_path / "model_short" / "edge" / "short"
    shutil.copytree(app.assets / "short", delivered)
    result = app.core("prepare", id="short", **places)
    assert result["path"] == str(delivered) and {stage for stage, *_ in result["progress"]} == {"VERIFY"}
    assert not (places["internal"] / "short").exists()
    change(delivered / SHARD)
    with pytest.raises(Failed) as failed:
        app.core("prepare", id="short", **places)
    assert failed.value.code == "WEIGHTS_DAMAGED"


@pytest.mark.parametrize("how", [{"weights": "pack"}, {"weights": "fast-follow", "pack": "model_short"}])
def test_installed_weights_stand_for_a_pack_once_they_are_whole(app, places, how, tmp_path):
    """As in a debug build, which has no packs."""
    app.read(app.entry("short", **how))
    nothing = places | {"assets": tmp_path}
    directory = places["external"] / "short"
    shutil.copytree(app.assets / "short", directory)
    os.truncate(directory / SHARD, 1000)
    with pytest.raises(Failed) as failed:
        app.core("prepare", id="short", **nothing)
    assert failed.value.code == "WEIGHTS_MISSING"
    shutil.copy(app.assets / "short" / SHARD, directory)
    assert app.core("prepare", id="short", **nothing)["path"] == str(directory)


def test_a_copy_that_was_killed_goes_on(app, places, tmp_path):
    """The second time, the first half of the asset is wrong: nobody reads it again."""
    places["assets"] = tmp_path
    shutil.copytree(app.assets / "short", tmp_path / "short")
    content, shard = (tmp_path / "short" / SHARD).read_bytes(), tmp_path / "short" / SHARD
    half = len(content) // 2
    shard.unlink()
    os.mkfifo(shard)
    core = Core({}, tmp_path / "calls.jsonl")
    core("models", json=json.dumps({"models": [app.entry("short")]}))

    def copy() -> None:
        with pytest.raises(ValueError):
            core("prepare", id="short", **places)

    copying = threading.Thread(target=copy, daemon=True)
    copying.start()
    part = places["internal"] / ".short.part" / SHARD
    with shard.open("wb", buffering=0) as pipe:
        pipe.write(content[:half])
        wait_until(lambda: part.exists() and part.stat().st_size == half)
        core.kill()
        copying.join(HANG_S)
        assert not copying.is_alive()
    shard.unlink()
    shard.write_bytes(bytes(half) + content[half:])
    app.core("prepare", id="short", **places)
    assert same(places["internal"] / "short", app.assets / "short")


@pytest.fixture
def small(tmp_path: Path):
    """A file system of 600 kB, which the weights almost fill."""
    directory = tmp_path / "small"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=640k", "tmpfs", str(directory)], check=True)
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_storage_that_is_too_small_from_the_start(app, places, small):
    places["internal"] = small / "models"
    (small / "photos").write_bytes(bytes(200_000))
    with pytest.raises(Failed) as failed:
        app.core("prepare", id="short", **places)
    assert failed.value.code == "STORAGE_FULL"
    assert failed.value.fields["needed"] == sum(file["bytes"] for file in app.entry("short")["files"])
    assert 0 < failed.value.fields["available"] < failed.value.fields["needed"]
    (small / "photos").unlink()
    app.core("prepare", id="short", **places)
    assert same(small / "models" / "short", app.assets / "short")


def test_storage_that_fills_up_meanwhile(app, places, small, tmp_path):
    places |= {"internal": small / "models", "assets": tmp_path / "assets"}
    shutil.copytree(app.assets / "short", tmp_path / "assets" / "short")
    shard = tmp_path / "assets" / "short" / SHARD
    content = shard.read_bytes()
    shard.unlink()
    os.mkfifo(shard)

    def fill() -> None:
        with shard.open("wb") as pipe:
            (small / "photos").write_bytes(bytes(400_000))
            with pytest.raises(BrokenPipeError):
                pipe.write(content)

    filling = threading.Thread(target=fill, daemon=True)
    filling.start()
    with pytest.raises(Failed) as failed:
        app.core("prepare", id="short", **places)
    filling.join(HANG_S)
    assert not filling.is_alive()
    assert failed.value.code == "STORAGE_FULL"
    (small / "photos").unlink()
    shard.unlink()
    shard.write_bytes(content)
    app.core("prepare", id="short", **places)
    assert same(small / "models" / "short", app.assets / "short")
