"""Builds the runner for the stand-in phone: android_bench/, cross-compiled against the aarch64 wheels' libraries."""

import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

REPOSITORY = Path(__file__).parents[3]
SOURCE = REPOSITORY / "android_bench"
LIBRARIES = ("tvm/lib/libtvm_runtime.so", "tvm/lib/libtvm_runtime_extra.so", "tvm_ffi/lib/libtvm_ffi.so")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-transact-tests"
"""Where test runs keep what takes long to make."""


def one_at_a_time(make: Callable[[], Path]) -> Callable[[], Path]:
    """If several processes call `make`, the first makes the result and the others find it."""

    @functools.wraps(make)
    def locked() -> Path:
        CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(CACHE / f".{make.__name__}.lock"):
            return make()

    return locked


@one_at_a_time
def wheels() -> Path:
    """Headers and aarch64 runtime libraries of the installed versions, laid out as in the wheels; cached."""
    packages = [f"{name}=={version(name)}" for name in ("apache-tvm", "apache-tvm-ffi")]
    target = CACHE / "-".join(["aarch64", *packages]).replace("==", "-")
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as workspace:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            platforms = ["--platform", "manylinux_2_28_aarch64", "--platform", "manylinux_2_27_aarch64"]
            subprocess.run([*command, *platforms, "--dest", workspace, *packages], check=True)
            fresh = Path(workspace) / "unpacked"
            for wheel in Path(workspace).glob("*.whl"):
                with zipfile.ZipFile(wheel) as archive:
                    for name in archive.namelist():
                        if name in LIBRARIES or name.startswith("tvm_ffi/include/"):
                            archive.extract(name, fresh)
            fresh.rename(target)
    return target


@one_at_a_time
def build_runner() -> Path:
    """A directory with ``edge-bench`` and the libraries that it needs; cached under a hash of the sources."""
    key = hashlib.sha256(str(wheels()).encode())
    for path in sorted(path for path in SOURCE.rglob("*") if path.is_file() and "build" not in path.parts):
        key.update(path.name.encode() + path.read_bytes())
    target = CACHE / f"runner-{key.hexdigest()[:12]}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=CACHE) as workspace:
            build = Path(workspace) / "build"
            toolchain = f"-DCMAKE_TOOLCHAIN_FILE={SOURCE / 'cmake/aarch64-linux-gnu.cmake'}"
            configure = ["-S", str(SOURCE), "-B", str(build), "-G", "Ninja", f"-DEDGE_TVM_WHEELS={wheels()}", toolchain]
            for arguments in (configure, ["--build", str(build)]):
                subprocess.run(["cmake", *arguments], check=True, stdout=subprocess.DEVNULL)
            fresh = Path(workspace) / "runner"
            fresh.mkdir()
            for path in (build / "edge-bench", *sorted(build.glob("*.so"))):
                path.rename(fresh / path.name)
            fresh.rename(target)
    return target
