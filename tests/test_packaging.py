"""Wheel and sdist: what is in them, and that the wheel alone works."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from edge_transact.cache import cache_directory
from tests.support.patience import HANG_S

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel built from it."""
    output = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = output.glob("*.tar.gz"), output.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(distributions: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed by itself, away from the source tree."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    done = subprocess.run([*command, str(distributions[1])], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return target


def tracked(*folders: str) -> set[str]:
    """Files under version control."""
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.rstrip("\0").split("\0"))


def run(installed: Path, directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_transact", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(installed), **environment}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=600)


def test_the_wheel_holds_the_package_its_templates_the_runners_sources_and_the_licence(distributions):
    names = set(zipfile.ZipFile(distributions[1]).namelist())
    assert tracked("edge_transact") <= names
    assert {f"edge_transact/{file}" for file in tracked("templates", "android_bench")} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith("tests/") for name in names)


def test_the_sdist_holds_everything_that_is_under_version_control(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert tracked() - names <= {".gitignore"}


def test_the_wheel_brings_the_command_its_templates_and_its_requirements(installed, tmp_path):
    assert (installed / "bin" / "edge-transact").exists()
    assert run(installed, tmp_path, "--version").stdout.strip()
    assert run(installed, tmp_path, "init", "demo:tiny").returncode == 0
    assert (tmp_path / "edge-transact.toml").exists()
    done = run(installed, tmp_path, "doctor", "--json", HF_HUB_OFFLINE="1")
    checks = {check["name"]: check for check in json.loads(done.stdout.splitlines()[-1])["checks"]}
    assert checks["packages"]["ok"] and "apache-tvm" in checks["packages"]["found"]
    where = "from edge_transact.benchmarking.portable import SOURCE; print(SOURCE)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    said = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    sources = Path(said.stdout.strip())
    assert sources.is_relative_to(installed) and (sources / "CMakeLists.txt").is_file()
    assert "glassllm" in checks["demo"]["found"] and "glassllm" not in checks["packages"]["found"]


@pytest.mark.soak
def test_the_wheel_alone_does_the_main_job(installed, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    # Machine code of kernels is the same, whoever compiles it.
    (cache_directory() / "kernels").mkdir(parents=True, exist_ok=True)
    (cache / "kernels").symlink_to(cache_directory() / "kernels")
    (tmp_path / "text.txt").write_text("It was the best of times, it was the worst of times. " * 400)
    prune = ("--ratio", "0.2", "--calibration", "text.txt", "--calibration-tokens", "2048")
    build = ("build", "demo:tiny", *prune, "--target", "host", "-o", "dist", "--json")
    done = run(installed, tmp_path, *build, EDGE_TRANSACT_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["parity"]["passed"]
    done = run(installed, tmp_path, "run", "dist", "--prompt", "Once", "--max-tokens", "4", "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout.splitlines()[-1])["tokens"]) == 4
