"""The manifest says what a DIST is, and notices a file that isn't as it was."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.manifest import Manifest
from edge_transact.errors import EdgeTransactError
from tests.support.damage import DAMAGE
from tests.support.dists import PLAN, edit_json

MANIFEST = Manifest(
    source="demo:tiny", model_type="edge_llama", model_lib="edge_llama_q4f32_1_0123abcd", quantization="q4f32_1",
    rounding="gptq", context_window_size=128, prefill_chunk_size=64, max_batch_size=1, device_profile=None, plan=PLAN,
    calibration={"sources": [{"text": "demo:sotu", "sha256": "0123", "tokens": 512}], "tokens": 512, "seed": 0},
    parameters=1000, weights_bytes=600, libraries={},
    parity={"max_error": 1e-6}, versions={"edge-transact": "0"},
)  # fmt: skip


@pytest.fixture
def dist(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "x.so").write_bytes(b"library")
    (tmp_path / "params_shard_0.bin").write_bytes(b"weights")
    MANIFEST.write(tmp_path)
    return tmp_path


def test_reads_back_what_it_wrote(dist):
    manifest = Manifest.read(dist)
    files = {name: sha256(dist / name) for name in ("lib/x.so", "params_shard_0.bin")}
    assert manifest == replace(MANIFEST, files=files)
    manifest.verify(dist)
    content = json.loads((dist / "manifest.json").read_text())
    assert content["widths"] == PLAN.to_list() and content["bits_per_parameter"] == 4.8


def test_a_known_digest_is_not_computed(dist):
    MANIFEST.write(dist, {"lib/x.so": "known"})
    assert Manifest.read(dist).files == {"lib/x.so": "known", "params_shard_0.bin": sha256(dist / "params_shard_0.bin")}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("parameters", "many"),
        ("libraries", 3),
        ("files", {"a": 1}),
        ("libraries", {"host": "/etc/passwd"}),
        ("files", {"../x": "0"}),
        ("widths", [{}] * 1001),
        ("context_window_size", "2048"),
        ("context_window_size", 0),
    ],
)
def test_a_field_of_another_type_is_named(dist, field, value):
    edit_json(dist / "manifest.json", **{field: value})
    with pytest.raises(EdgeTransactError, match=rf"manifest\.json cannot be read \(({field}|.* outside)"):
        Manifest.read(dist)


def test_a_changed_file_is_named(dist):
    (dist / "lib" / "x.so").write_bytes(b"another")
    with pytest.raises(EdgeTransactError, match=r"lib/x\.so changed after the build"):
        Manifest.read(dist).verify(dist)
    (dist / "lib" / "x.so").unlink()
    with pytest.raises(EdgeTransactError, match=r"lib/x\.so is missing"):
        Manifest.read(dist).verify(dist)


def test_a_file_that_is_cut_while_it_is_read_does_not_end_the_process(tmp_path):
    """As a disk's error would, if files were mapped."""
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    program = """if True:
        import hashlib, os, sys
        from pathlib import Path
        from edge_transact.artifacts.digests import sha256
        whole = hashlib.sha256
        def cut(*content):
            os.truncate(sys.argv[1], 1)
            return whole(*content)
        hashlib.sha256 = cut
        print(sha256(Path(sys.argv[1])))"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "file"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, hashlib.sha256(b"\0").hexdigest()), done


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_changed_manifest_is_refused(dist, damage):
    DAMAGE[damage](dist / "manifest.json")
    with pytest.raises(EdgeTransactError, match=r"manifest\.json changed after the build"):
        Manifest.read(dist)


def test_a_file_that_is_read_must_be_listed(dist):
    """A manifest that lists nothing verifies nothing, which is no reason to read it."""
    edit_json(dist / "manifest.json", files={})
    with pytest.raises(EdgeTransactError, match=r"params_shard_0\.bin is not in manifest\.json"):
        Manifest.read(dist).verify(dist, "params_shard_*.bin")


def test_no_manifest_no_dist(tmp_path):
    with pytest.raises(EdgeTransactError, match=r"is not a DIST: it has no manifest\.json"):
        Manifest.read(tmp_path)


def test_a_directory_that_is_not_a_dist_gets_a_suggestion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dist", "pruned"):
        Path(name).mkdir()
    MANIFEST.write(Path("dist"))
    Path("pruned", "config.json").touch()
    for name, message, fix in (
        ("dits", "dits does not exist", "Did you mean 'dist'?"),
        ("pruned", "pruned is a checkpoint, not a DIST", "edge-transact build pruned"),
    ):
        with pytest.raises(EdgeTransactError, match=message) as refused:
            Manifest.read(Path(name))
        assert fix in refused.value.fix


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": {}, "widths": []}'])
def test_an_invalid_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(EdgeTransactError, match=r"manifest\.json (cannot be read|is not JSON)"):
        Manifest.read(tmp_path)


def test_patterns_select_the_files_to_verify(tmp_path):
    (tmp_path / "a.bin").write_text("changed")
    (tmp_path / "b.bin").write_text("changed")
    manifest = replace(MANIFEST, files={"a.bin": "", "b.bin": ""})
    manifest.verify(tmp_path, "*.json")
    with pytest.raises(EdgeTransactError, match=r"b\.bin changed after the build"):
        manifest.verify(tmp_path, "b*")
