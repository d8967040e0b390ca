"""Runs llama.cpp from a prebuilt package, node-llama-cpp."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from filelock import FileLock

from benchmarks.subjects import Subject
from edge_transact.errors import EdgeTransactError

VERSION = "3.22.1"
PACKAGES = (f"node-llama-cpp@{VERSION}", f"@node-llama-cpp/linux-x64@{VERSION}")
SCRIPT = Path(__file__).parent / "native" / "llama.mjs"


def start(model: Path, directory: Path, threads: int, cpu: str | None = None) -> Subject:
    """Start llama.cpp with a GGUF.

    Args:
        model: A ``.gguf`` file.
        directory: Directory into which npm installs the package once.
        threads: Threads for prefill and decode.
        cpu: The CPU whose instructions it may use; `None` for whatever it finds in this machine.

    Returns:
        A process that also answers the other requests of `SCRIPT`.

    Raises:
        EdgeTransactError: node or npm is missing, the packages can't be installed, or they have nothing for that CPU.
    """
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise EdgeTransactError(f"{program} is missing", fix="Install Node.js 20 or newer with npm.")
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "install.lock"):
        if not (directory / "node_modules" / "node-llama-cpp").is_dir():
            _install(directory)
    if cpu:
        directory = _only_for(cpu, directory)
    return Subject(["node", str(SCRIPT.resolve()), str(model.resolve()), str(threads)], cwd=directory)


def _install(directory: Path) -> None:
    (directory / "package.json").write_text("{}\n")
    # No scripts: they would download or compile, and the prebuilt binary is a package of its own. No optional packages:
    # those for other machines and for GPUs take ten times the space.
    flags = ["--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error"]
    if subprocess.run(["npm", "install", *flags, *PACKAGES], cwd=directory, stdout=subprocess.DEVNULL).returncode:
        raise EdgeTransactError(f"npm can't install {' and '.join(PACKAGES)}", fix="See its output above.")


def _only_for(cpu: str, directory: Path) -> Path:
    """A copy of the installed packages in which llama.cpp finds its library for one CPU, and none for better ones."""
    copy = directory.with_name(f"{directory.name}-{cpu}")
    if not copy.is_dir():
        libraries = [*directory.rglob("libggml-cpu-*.so")]
        if f"libggml-cpu-{cpu}.so" not in {library.name for library in libraries}:
            known = ", ".join(sorted(library.stem.removeprefix("libggml-cpu-") for library in libraries))
            raise EdgeTransactError(f"{PACKAGES[1]} has no llama.cpp for {cpu}", fix=f"Give one of {known}.")
        partial = copy.with_name(f"{copy.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(directory, partial, symlinks=True, copy_function=os.link)
        for library in partial.rglob("libggml-cpu-*.so"):
            if library.stem != f"libggml-cpu-{cpu}":
                library.unlink()
        partial.rename(copy)
    return copy
