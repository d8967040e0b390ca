"""The portable runner: `edge-bench` for 64-bit ARM Linux with all that it needs beside it, made without an NDK.

A phone starts it through `LOADER` and takes no library of its own. It computes on CPUs: phones' OpenCL drivers are
Android's libraries. docs/lab/portable-runner.md says why it is made so, and which system calls it makes.
"""

from __future__ import annotations

import logging
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import edge_transact
from edge_transact.artifacts.digests import sha256
from edge_transact.cache import Recipe, made
from edge_transact.cache.keys import code_of
from edge_transact.compiler.archive import C_LIBRARIES, link_empty
from edge_transact.errors import EdgeTransactError
from edge_transact.hub.wheels import take_from_wheels

logger = logging.getLogger(__name__)

RUNNER = "edge-bench"
LOADER = "ld-linux-aarch64.so.1"
"""The file in a portable runner's directory that starts it; a runner built with the NDK has none."""

COMPILER, COMPILER_PACKAGE = "aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu"
"""A cross-compiler, and the package of Debian and Ubuntu that has it."""

INSTALL = (
    "brew install messense/macos-cross-toolchains/aarch64-unknown-linux-gnu"
    if sys.platform == "darwin"
    else f"sudo apt-get install {COMPILER_PACKAGE}"
)
"""The command that installs it."""

PLATFORM = "manylinux_2_28_aarch64"
WHEELS = {
    "apache-tvm": ("tvm/lib/libtvm_runtime_extra.so", "tvm/lib/libtvm_runtime.so"),
    "apache-tvm-ffi": ("tvm_ffi/lib/libtvm_ffi.so",),
}
"""What is taken out of the wheels, in the order in which it is linked."""

_PACKAGE = Path(edge_transact.__file__).parent
SOURCE = next(path for path in (_PACKAGE / "android_bench", _PACKAGE.parent / "android_bench") if path.exists())
"""The runner's source: inside the package in a wheel, next to it in a source tree."""


def portable_runner() -> Path:
    """The directory of a runner for any phone's CPU, from the cache or made now; an `EdgeTransactError` if not."""
    compiler = shutil.which(COMPILER)
    if compiler is None:
        raise EdgeTransactError(f"no {COMPILER} on PATH, which compiles the phone's runner", fix=INSTALL)
    sources = sorted((SOURCE / "src").iterdir())
    recipe = Recipe(
        kind="runners",
        what="make the portable runner",
        ingredients={
            "compiler": _run(compiler, "--version").partition("\n")[0],
            "libc": sha256(_library(compiler, "libc.so.6")),
            "sources": {path.name: sha256(path) for path in sources},
            "code": code_of(portable_runner),
            **{package: version(package) for package in WHEELS},
        },
        make=lambda directory: _make(compiler, directory),
        name="runner",
    )
    return made(recipe)


def _make(compiler: str, directory: Path) -> None:
    wheels = {f"{package}=={version(package)}": names for package, names in WHEELS.items()}
    take_from_wheels(wheels, directory, "Check the network, and the index that pip or uv uses.", PLATFORM)
    libraries = [directory / Path(name).name for names in WHEELS.values() for name in names]
    headers = find_spec("tvm_ffi")
    assert headers is not None and headers.origin is not None
    command = [compiler, "-std=c++17", "-O2", "-s", "-pthread", "-isystem", Path(headers.origin).parent / "include"]
    command += sorted((SOURCE / "src").glob("*.cc"))
    # Of `runtime_extra` no symbol is used: it registers the VM and the KV cache when it is loaded.
    _run(*command, "-o", directory / RUNNER, "-Wl,--no-as-needed", *libraries, "-ldl")
    wanted = [directory / RUNNER, *libraries]
    for binary in wanted:
        for name in _needed(binary):
            if not (directory / name).exists():
                shutil.copy(_library(compiler, name), directory / name)
                wanted.append(directory / name)
    # Models' libraries need Android's libraries by name. Here their symbols are found in the runner's own needs.
    for name in C_LIBRARIES:
        link_empty([compiler], directory / name)


def _needed(binary: Path) -> list[str]:
    """File names of the shared libraries that a binary needs."""
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    with binary.open("rb") as stream:
        sections = [each for each in ELFFile(stream).iter_sections() if isinstance(each, DynamicSection)]
        tags = [tag for section in sections for tag in section.iter_tags("DT_NEEDED")]
        return [tag.needed for tag in tags]  # type: ignore[attr-defined]


def _library(compiler: str, name: str) -> Path:
    """A library of the compiler's, by file name."""
    path = Path(_run(compiler, f"-print-file-name={name}").strip())
    if not path.is_absolute():
        raise EdgeTransactError(f"{compiler} has no {name}", fix="Install its C and C++ libraries, or another one.")
    return path


def _run(*command: object) -> str:
    """The output of a program that must succeed."""
    words = [str(word) for word in command]
    logger.debug("$ %s", shlex.join(words))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise EdgeTransactError(
            f"the portable runner can't be made: {shlex.join(words[:4])} ... ended with {done.returncode}:\n{last}",
            fix="Read what it says above; the compiler needs a C library of version 2.27 or newer.",
        )
    return done.stdout
