"""``python -m edge_transact.mlc.package ARGUMENTS``: runs ``mlc_llm package ARGUMENTS`` without MLC's C++ library.

MLC's packaging starts ``prepare_libs.py`` with a new interpreter, which would look for the library again. That script
builds its engine for phones; after `EMULATORS`, it does so for emulators on x86-64, too.
"""

from __future__ import annotations

import os
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edge_transact.mlc import adapters

EMULATORS, EMULATORS_ABI = "--emulators", "x86_64"

_FOR_EMULATORS = {
    "-DANDROID_ABI=arm64-v8a": f"-DANDROID_ABI={EMULATORS_ABI}",
    "aarch64-linux-android": "x86_64-linux-android",
}
"""The words of ``prepare_libs.py`` that name phones to CMake and Rust, and those for emulators."""


def main(arguments: Sequence[str]) -> None:
    """Runs the command. The environment has ``SKIP_LOADING_MLCLLM_SO=1``, and MLC's ``python`` on ``PYTHONPATH``."""
    adapters.before_import()
    from mlc_llm.cli import package as command
    from mlc_llm.interface import package

    package.subprocess = SimpleNamespace(run=partial(_run_here, emulators=EMULATORS in arguments))
    try:
        command.main([each for each in arguments if each != EMULATORS])
    except subprocess.CalledProcessError as error:
        # The command has said why; a traceback would hide that.
        raise SystemExit(f"{shlex.join(map(str, error.cmd))} failed with exit code {error.returncode}") from None


def _run_here(command: Sequence[object], *, emulators: bool, **options: Any) -> None:
    """Replaces ``subprocess.run([python, SCRIPT, ...])``."""
    _, script, *arguments = map(str, command)
    _run_script(script, arguments)
    if emulators:
        home, run = Path("build", EMULATORS_ABI), subprocess.run
        (home / "build").mkdir(parents=True, exist_ok=True)
        # The engine's own: without models, it holds no code for one ABI.
        shutil.copytree("build/lib", home / "build/lib", dirs_exist_ok=True)

        def run_for_emulators(words: Sequence[str | Path], **options: Any) -> object:
            return run([_FOR_EMULATORS.get(str(word), word) for word in words], **options)

        subprocess.run = run_for_emulators  # type: ignore[assignment]
        try:
            _run_script(script, arguments, home)
        finally:
            subprocess.run = run
        shutil.copytree(home / "build/output" / EMULATORS_ABI, Path("build/output", EMULATORS_ABI), dirs_exist_ok=True)


def _run_script(script: str, arguments: Sequence[str], home: Path = Path()) -> None:
    directory, words = os.getcwd(), sys.argv
    sys.argv = [script, *arguments]
    os.chdir(home)
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.argv = words
        os.chdir(directory)


if __name__ == "__main__":
    main(sys.argv[1:])
