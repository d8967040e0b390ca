"""The intermediate forms of a library as text files, for people who work on the compiler."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import tvm
from tvm import IRModule
from tvm.relax import VMExecutable

SOURCE_FORMATS = {"llvm": "ll", "opencl": "cl", "metal": "metal", "cuda": "cu"}
"""A runtime module's kind to the format of its source, which is the file's suffix too."""


def dump_module(directory: Path, number: int, phase: str, mod: IRModule) -> None:
    """Write a module after a phase as TVMScript: ``02-fused.py``."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{number:02d}-{phase}.py").write_text(mod.script() + "\n")


def dump_code(directory: Path, executable: VMExecutable) -> None:
    """Write ``bytecode.txt``, ``host.ll`` (LLVM IR) and a GPU's kernels, such as ``device.cl``."""
    (directory / "bytecode.txt").write_text(executable.as_text())
    counts: Counter[str] = Counter()
    for module in _imports(executable.mod):
        suffix = SOURCE_FORMATS.get(module.kind)
        if suffix is None:
            continue
        # Kernels with different target attributes are in different modules.
        counts[suffix] += 1
        number = f"-{counts[suffix]}" if counts[suffix] > 1 else ""
        stem = "host" if module.kind == "llvm" else "device"
        (directory / f"{stem}{number}.{suffix}").write_text(module.inspect_source(suffix))


def _imports(module: tvm.runtime.Module) -> Iterator[tvm.runtime.Module]:
    for imported in module.imports:
        yield imported
        yield from _imports(imported)
