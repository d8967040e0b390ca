"""The cache: made once for the same ingredients, whole or not at all, and never wrong unnoticed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge_transact import cache
from edge_transact.artifacts.digests import sha256
from edge_transact.cli import app
from tests.support.patience import HANG_S

pytestmark = pytest.mark.usefixtures("own_cache")


class Kitchen:
    """Makes one file, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, directory: Path) -> None:
        self.times += 1
        (directory / "parts").mkdir()
        (directory / "parts" / "a.bin").write_bytes(b"content")

    def recipe(self, kind: str = "weights", **ingredients) -> cache.Recipe:
        return cache.Recipe(kind, "quantize", ingredients, self)


def test_the_same_ingredients_are_made_once(caplog):
    caplog.set_level("INFO", "edge_transact")
    kitchen = Kitchen()
    first = cache.made(kitchen.recipe(model="a"))
    assert "reused" not in caplog.text
    assert cache.made(kitchen.recipe(model="a")) == first
    assert kitchen.times == 1
    assert "quantize: nothing has changed, reused" in caplog.text


@given(
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
)
@settings(max_examples=50)
def test_entries_are_equal_if_and_only_if_ingredients_are(one, other):
    kitchen = Kitchen()
    recipes = [cache.Recipe("weights", "quantize", ingredients, kitchen) for ingredients in (one, other)]
    assert (recipes[0].entry == recipes[1].entry) == (one == other)


def test_a_second_process_waits_for_the_first(monkeypatch):
    kitchen, begun, waits, go_on = Kitchen(), threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(
        cache.logger, "info", lambda message: waits.set() if "waiting for another process" in message else None
    )

    def make_slowly(directory: Path) -> None:
        begun.set()
        assert go_on.wait(HANG_S)
        kitchen(directory)

    first = threading.Thread(target=cache.made, args=[replace(kitchen.recipe(), make=make_slowly)])
    second = threading.Thread(target=cache.made, args=[kitchen.recipe()])
    first.start()
    assert begun.wait(HANG_S)
    second.start()
    assert waits.wait(HANG_S)
    assert second.is_alive()
    go_on.set()
    for thread in (first, second):
        thread.join(HANG_S)
    assert kitchen.times == 1


def test_no_cache_makes_an_entry_again(monkeypatch):
    kitchen = Kitchen()
    cache.made(kitchen.recipe())
    monkeypatch.setattr(cache, "enabled", False)
    cache.made(kitchen.recipe())
    assert kitchen.times == 2


def test_an_interrupted_entry_does_not_exist(own_cache):
    def fails(directory: Path) -> None:
        (directory / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.made(cache.Recipe("weights", "quantize", {}, fails))
    assert cache.entries() == []
    assert list((own_cache / "weights").iterdir()) == []


def test_a_cache_that_is_no_directory_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "text").write_text("mine")
    monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(tmp_path / "text"))
    for command in (["prune", "--ratio", "0.3"], ["heal"], ["build", "--target", "host"]):
        refused = CliRunner().invoke(app, [*command, "no-such-model", "-o", str(tmp_path / "out")])
        assert refused.exit_code == 1 and f"the cache {tmp_path}/text can't be used" in refused.stderr, refused.stderr
    assert (tmp_path / "text").read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "damage"), [("parts/a.bin", b"conten"), ("parts/a.bin", b"CONTENT"), (f"../{cache.RECORD}", b"{")]
)
def test_a_damaged_entry_or_record_is_made_again(tmp_path, file, damage):
    kitchen = Kitchen()
    (cache.made(kitchen.recipe()) / file).write_bytes(damage)
    cache.place(kitchen.recipe(), tmp_path / "out")
    assert (tmp_path / "out" / "parts" / "a.bin").read_bytes() == b"content"
    assert kitchen.times == 2


@pytest.mark.parametrize("kind", ["converted", "pruned", "kernels"])
def test_a_flipped_bit_is_never_used(kind, caplog):
    """Of the same length, where nothing is copied: the entry is made again, and the next time it is used."""
    kitchen = Kitchen()
    recipe = kitchen.recipe(kind)
    file = cache.made(recipe) / "parts" / "a.bin"
    file.write_bytes(b"cOntent")
    for _ in range(2):
        assert (cache.made(recipe) / "parts" / "a.bin").read_bytes() == b"content"
    assert kitchen.times == 2 and caplog.text.count("is not as it was made: making it again") == 1


def test_place_returns_digests_and_hashes_a_new_file_once(tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(cache, "sha256", lambda path: hashed.append(path.name) or sha256(path))
    kitchen = Kitchen()
    placed = cache.place(kitchen.recipe(), tmp_path / "new")
    assert placed == {"parts/a.bin": sha256(tmp_path / "new" / "parts" / "a.bin")}
    assert hashed == ["a.bin"]
    monkeypatch.undo()
    monkeypatch.setenv("EDGE_TRANSACT_CACHE", str(tmp_path / "cache"))
    assert cache.place(kitchen.recipe(), tmp_path / "again") == placed
    assert kitchen.times == 1


def test_editing_an_output_leaves_the_cache_alone(tmp_path):
    kitchen = Kitchen()
    cache.place(kitchen.recipe(), tmp_path / "out")
    (tmp_path / "out" / "parts" / "a.bin").write_bytes(b"edited")
    cache.place(kitchen.recipe(), tmp_path / "again")
    assert (tmp_path / "again" / "parts" / "a.bin").read_bytes() == b"content"
    assert kitchen.times == 1


def run(*arguments: str) -> dict:
    result = CliRunner().invoke(app, ["cache", *arguments, "--json"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_the_command_lists_and_clears_only_entries(own_cache):
    kitchen = Kitchen()
    cache.made(kitchen.recipe("weights"))
    cache.made(kitchen.recipe("libraries"))
    shown = run()
    assert {entry["kind"] for entry in shown["entries"]} == {"weights", "libraries"}
    assert shown["size_bytes"] == sum(path.stat().st_size for path in own_cache.rglob("*") if path.is_file())
    (own_cache / "mine.txt").write_text("not ours")
    assert run()["size_bytes"] == shown["size_bytes"]
    assert [entry["kind"] for entry in run("--clear", "--kind", "weights")["entries"]] == ["weights"]
    assert [entry["kind"] for entry in run()["entries"]] == ["libraries"]
    assert run("--clear")["cleared"] is True
    assert run()["entries"] == []
    assert (own_cache / "mine.txt").exists()


def test_what_another_process_reads_is_not_cleared():
    program = """
import signal
from edge_transact import cache
signal.alarm(120)
print(cache.made(cache.Recipe("pruned", "prune", {}, lambda directory: (directory / "a").touch())), flush=True)
input()
"""
    reader = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert reader.stdout and (directory := Path(reader.stdout.readline().strip())).is_dir()
    own = cache.made(Kitchen().recipe("weights"))
    assert [entry["kind"] for entry in run("--clear")["entries"]] == ["weights"]
    assert (directory / "a").exists() and not own.exists()
    reader.communicate("\n", timeout=HANG_S)
    assert [entry["kind"] for entry in run("--clear")["entries"]] == ["pruned"]


def test_what_is_being_copied_is_not_cleared(tmp_path, monkeypatch):
    kitchen = Kitchen()
    cache.made(kitchen.recipe())
    copy = shutil.copyfile

    def copy_after_clearing(source: Path, target: Path) -> Path:
        assert cache.clear(cache.KINDS) == []
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", copy_after_clearing)
    cache.place(kitchen.recipe(), tmp_path / "out")
    assert kitchen.times == 1


def test_a_librarys_kernels_are_one_row():
    kitchen = Kitchen()
    for number in range(3):
        cache.made(kitchen.recipe("kernels", number=number))
    cache.made(kitchen.recipe("libraries"))
    listed = CliRunner().invoke(app, ["cache"]).stdout
    assert listed.count("quantize") == 1 and "3 kernels" in listed
    assert CliRunner().invoke(app, ["cache", "--kind", "kernels"]).stdout.count("quantize") == 3


def test_an_unknown_kind():
    result = CliRunner().invoke(app, ["cache", "--kind", "weigths"])
    assert result.exit_code == 2 and "Did you mean 'weights'?" in result.stderr


def test_verbose_says_why_a_stage_is_made_again(monkeypatch, caplog):
    caplog.set_level("DEBUG", "edge_transact")

    def made(**ingredients: object) -> str:
        directory = cache.made(cache.Recipe("weights", "quantize", ingredients, lambda directory: None))
        said = caplog.text
        caplog.clear()
        assert str(directory) in said
        return said

    assert "the cache has nothing of that name" in made(seed=1, code="a")
    assert "not as it was the last time: seed" in made(seed=(2,), code="a")
    assert "not as it was" not in made(seed=(2,), code="a")
    monkeypatch.setattr(cache, "enabled", False)
    assert "as --no-cache says" in made(seed=(2,), code="a")
