"""Links an archive of objects, as apps link it, into a shared library, as the runner loads it."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

from edge_transact.artifacts.digests import sha256
from edge_transact.benchmarking.portable import COMPILER, INSTALL
from edge_transact.cache import Recipe, made
from edge_transact.cache.keys import code_of
from edge_transact.compiler.archive import android_linker, link_android
from edge_transact.errors import EdgeTransactError

NDK_VARIABLES = ("ANDROID_NDK", "ANDROID_NDK_HOME", "ANDROID_NDK_ROOT")


@cache
def link_archive(archive: Path) -> Path:
    """The archive's objects as one shared library, from the cache or linked now. Raises what `require_linker` does."""
    linker = require_linker()
    recipe = Recipe(
        kind="libraries",
        what=f"link {archive.name} for the runner",
        ingredients={"archive": sha256(archive), "linker": linker, "code": code_of(link_android)},
        make=lambda directory: link_android(archive, directory / "library.so", linker),
    )
    return made(recipe) / "library.so"


def require_linker(architecture: str = "aarch64") -> list[str]:
    """`find_linker`, or an `EdgeTransactError` that says how to get one."""
    if linker := find_linker(architecture):
        return linker
    raise EdgeTransactError(
        "no linker for Android's libraries was found",
        fix=f"Install one: {INSTALL}; or clang and lld; or set ANDROID_NDK to an NDK.",
    )


def find_linker(architecture: str = "aarch64") -> list[str] | None:
    """Clang with lld, an NDK's clang or the portable runner's compiler, as the first words of a command."""
    if linker := android_linker(architecture):
        return linker
    for variable in NDK_VARIABLES:
        if root := os.environ.get(variable):
            for clang in sorted(Path(root).glob("toolchains/llvm/prebuilt/*/bin/clang")):
                return [str(clang), f"--target={architecture}-linux-android28"]
    compiler = shutil.which(COMPILER) if architecture == "aarch64" else None
    return None if compiler is None else [compiler]
