"""`verify` finds every damaged bit of what edge-transact wrote, and so does each command in what it reads."""

import json
import random
import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import edge_transact as et
from edge_transact import cache
from edge_transact.artifacts.digests import SEAL
from edge_transact.artifacts.dist_files import CHAT_CONFIG, MODEL_FILES, TOKENIZER_FILES
from edge_transact.artifacts.manifest import Manifest
from edge_transact.benchmarking.drivers.host import HostDriver
from edge_transact.benchmarking.model import open_models
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.cache.journal import Journal
from edge_transact.checkpoint import Checkpoint, write_checkpoint
from edge_transact.errors import EdgeTransactError
from edge_transact.evaluation.requirements import plans_of
from edge_transact.exporting.gguf import export_gguf
from edge_transact.runtime.opening import Opening
from tests.support.command import edge_transact
from tests.support.damage import DAMAGE, flip
from tests.support.dists import edit_json
from tests.support.tokenizers import give_bytes


def failed(*paths: Path) -> dict[str, str]:
    """What `verify` finds wrong, by path."""
    return {check.name: check.found for check in et.verify(*paths) if not check.ok}


@pytest.fixture
def dist(built_dist: Path, tmp_path: Path) -> Path:
    """With a tokenizer that GGUF can hold, so that `export` fails only where something is damaged."""
    copy = shutil.copytree(built_dist, tmp_path / "dist")
    give_bytes(copy)
    return copy


@pytest.fixture
def checkpoint(tiny_model: Path, tmp_path: Path) -> Path:
    source = Checkpoint.open(tiny_model)
    tensors = ((name, source.tensor(name)) for name in source.tensor_names())
    return write_checkpoint(source, source.plan, tensors, {"source": "demo:tiny"}, tmp_path / "checkpoint").path


@pytest.fixture
def project(built_dist: Path, tmp_path: Path) -> Path:
    return et.bundle(built_dist, tmp_path / "app").directory


@pytest.fixture
def exported(tiny_model: Path, tmp_path: Path) -> Path:
    give_bytes(shutil.copytree(tiny_model, tmp_path / "model"))
    return export_gguf(str(tmp_path / "model"), tmp_path / "tiny.gguf").path


@pytest.fixture
def cached(own_cache: Path) -> Path:
    cache.made(cache.Recipe("texts", "a text", {"number": 1}, lambda path: (path / "text").write_text("written")))
    unfinished = cache.entry_of(cache.UNFINISHED, {"number": 2})
    cache.write_record(unfinished, cache.Record(what="unfinished", ingredients={"number": 2}, files={}))
    Journal(unfinished).note("scores", [1, 2])
    return own_cache


@pytest.mark.parametrize("kind", ["dist", "checkpoint", "project", "exported", "cached"])
def test_every_file_is_compared(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)
    assert failed(path) == {}
    # Cards may be edited, locks and records of entries aren't results, and a project's assets are its models' files.
    apart = {"checkpoint": ["README.md"], "cached": ["locks/*", cache.RECORD]}.get(kind, [])
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    files = [file for file in files if file.stat().st_nlink == 1 and not any(map(file.match, apart))]
    for file in files[:: 1 + len(files) // 40]:
        before = file.read_bytes()
        flip(file)
        assert str(file) in failed(path), file
        file.write_bytes(before)
    assert failed(path) == {}


def test_files_that_no_list_has(dist: Path, checkpoint: Path, project: Path) -> None:
    for path in (dist, checkpoint, project):
        (path / "vocab.json").write_text("{}")
    assert failed(dist, checkpoint, project) == {
        str(dist / "vocab.json"): "is not in manifest.json",
        str(checkpoint / "vocab.json"): "is not in edge_transact.json",
    }
    (dist / "tokenizer.json").unlink()
    assert failed(dist)[str(dist / "tokenizer.json")] == "is missing"


def test_what_has_no_record_is_not_verified(tiny_model: Path, dist: Path, exported: Path, tmp_path: Path) -> None:
    edit_json(dist / "manifest.json")
    exported.write_bytes(exported.read_bytes().replace(SEAL.encode(), b"other_digest"[: len(SEAL)]))
    assert re.fullmatch(r"has \d+ tensors as in config\.json, and no sha256 of them", failed(tiny_model).popitem()[1])
    for path in (dist, exported):
        assert "has no sha256 of itself" in failed(path).popitem()[1]
    for path, message in (tmp_path / "gone", "does not exist"), (tmp_path, "is nothing that edge-transact writes"):
        with pytest.raises(EdgeTransactError, match=message):
            et.verify(path)


def test_command(dist: Path, checkpoint: Path) -> None:
    code, out, _ = edge_transact("verify", dist, checkpoint, "--json")
    checks = json.loads(out.splitlines()[-1])["checks"]
    assert code == 0 and [(check["name"], check["ok"]) for check in checks] == [
        (str(dist), True),
        (str(checkpoint), True),
    ]
    code, out, _ = edge_transact("verify", dist, "--tokens")
    assert code == 0 and f"ok {dist}, tokens: 100% of 17 tokens are torch's, and 100% were in the build" in out
    manifest = Manifest.read(dist)
    replace(manifest, parity=manifest.parity | {"greedy_ids": manifest.answer()[1][::-1]}).write(dist)
    code, out, _ = edge_transact("verify", dist, "--tokens")
    assert code == 1 and "-- " in out and "% of 17 tokens are torch's" in out


def read_for_bench(dist: Path) -> None:
    """What `bench` reads before it measures."""
    HostDriver(BenchOptions()).prepare(open_models([dist], []), threading.Event())


def read_for_run(dist: Path) -> None:
    """What `run`, and `eval` as a function, read."""
    with Opening(dist, text=True) as opening:
        opening.codec()


READS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "run": (read_for_run, ("manifest.json", *MODEL_FILES, "lib/*-host.so")),
    "eval": (lambda dist: plans_of([str(dist)]), ("manifest.json", *TOKENIZER_FILES)),
    "bench": (read_for_bench, ("manifest.json", *MODEL_FILES, "lib/*-host.so")),
    "export": (
        lambda dist: export_gguf(str(dist), dist.parent / "out.gguf"),
        ("manifest.json", *MODEL_FILES, CHAT_CONFIG, "edge_transact.json"),
    ),
    "bundle": (lambda dist: et.bundle(dist, dist.parent / "app"), ("manifest.json", *MODEL_FILES, "lib/*-cpu.tar")),
}
"""What each command does with a DIST first, and the files that it reads."""


@pytest.mark.parametrize("number", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(1, 20))])
def test_random_flips(dist: Path, number: int) -> None:
    """Ten flips each, as likely in every file: found by `verify`, and by each command in what it reads."""
    chosen = random.Random(number)
    files = sorted(file for file in dist.rglob("*") if file.is_file())
    for file in chosen.sample(files, 10):
        before = file.read_bytes()
        flip(file, chosen.randrange(len(before)))
        assert file.stat().st_size == len(before) and str(file) in failed(dist)
        for command, (read, patterns) in READS.items():
            if any(file.relative_to(dist).match(pattern) for pattern in patterns):
                with pytest.raises(EdgeTransactError):
                    read(dist)
                    pytest.fail(f"{command} reads a damaged {file.name}")
        file.write_bytes(before)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest_is_named(dist: Path, damage: str) -> None:
    DAMAGE[damage](dist / "manifest.json")
    assert failed(dist) == {str(dist / "manifest.json"): "was changed"}
