"""``python -m edge_transact.mlc.package ARGUMENTS``: runs ``mlc_llm package ARGUMENTS`` without MLC's C++ library.

MLC's packaging starts ``prepare_libs.py`` with a new interpreter, which would look for the library again.
"""

from __future__ import annotations

import os
import runpy
import shlex
import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from edge_transact.mlc import adapters


def main(arguments: Sequence[str]) -> None:
    """Runs the command. The environment has ``SKIP_LOADING_MLCLLM_SO=1``, and MLC's ``python`` on ``PYTHONPATH``."""
    adapters.before_import()
    from mlc_llm.cli import package as command
    from mlc_llm.interface import package

    package.subprocess = SimpleNamespace(run=_run_here)
    try:
        command.main(list(arguments))
    except subprocess.CalledProcessError as error:
        # The command has said why; a traceback would hide that.
        raise SystemExit(f"{shlex.join(map(str, error.cmd))} failed with exit code {error.returncode}") from None


def _run_here(command: Sequence[object], **options: Any) -> None:
    """Replaces ``subprocess.run([python, SCRIPT, ...])``."""
    _, script, *arguments = map(str, command)
    directory, words = os.getcwd(), sys.argv
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        sys.argv = words
        os.chdir(directory)


if __name__ == "__main__":
    main(sys.argv[1:])
