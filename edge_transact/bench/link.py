"""An archive of objects, as apps link it, as a shared library, as the runner loads it. Needs lld, not the NDK."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from edge_transact.bench.push import sha256
from edge_transact.errors import EdgeTransactError

LINKERS = ("ld.lld", "ld.lld-19", "aarch64-linux-gnu-ld")

PAGE_BYTES = 16384
"""Alignment of segments: phones with 16 KiB pages load nothing else."""


def link_archive(archive: Path) -> Path:
    """The archive's objects in one shared library, cached by the archive's sha256.

    The library's undefined symbols are the runtime's and libm's, which the runner has loaded before it.

    Raises:
        EdgeTransactError: No linker was found, or it failed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-transact" / "linked"
    target = cache / f"{sha256(archive)}.so"
    if target.exists():
        return target
    linker = _linker()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as workspace:
        with tarfile.open(archive) as file:
            file.extractall(workspace, filter="data")
        objects = sorted(str(path) for path in Path(workspace).rglob("*.o"))
        fresh = Path(workspace) / "library.so"
        command = [linker, "-shared", "-z", f"max-page-size={PAGE_BYTES}", "-o", str(fresh), *objects]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode or not objects:
            raise EdgeTransactError(
                f"{archive} cannot be linked: {result.stderr.strip()[-500:] or 'no objects in it'}",
                fix="Build it again for android or android-cpu.",
            )
        os.replace(fresh, target)
    return target


def _linker() -> str:
    for variable in ("ANDROID_NDK_HOME", "ANDROID_NDK_ROOT", "ANDROID_NDK"):
        found = sorted(Path(os.environ.get(variable) or "/nowhere").glob("toolchains/llvm/prebuilt/*/bin/ld.lld"))
        if found:
            return str(found[0])
    for name in LINKERS:
        if path := shutil.which(name):
            return path
    raise EdgeTransactError(
        "no linker for Android's libraries was found", fix="Install lld, or set ANDROID_NDK_HOME to an NDK."
    )
