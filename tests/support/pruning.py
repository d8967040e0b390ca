"""Helpers for tests of pruning: a calibration text, the command, and a checkpoint's digest."""

import hashlib
from pathlib import Path

from tests.support.command import run

TEXT = "\n\n".join(f"Chapter {number}. It was a year of {number * 7} ships and wars." for number in range(300))
"""A calibration text of some thousand tokens."""


def prune_command(*arguments: object) -> tuple[int, str, str]:
    """Runs ``edge-transact prune``: exit code, stdout, stderr."""
    result = run("prune", *arguments)
    return result.exit_code, result.stdout, result.stderr


def weights_of(directory: Path) -> str:
    """The sha256 of a checkpoint's weights."""
    return hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
