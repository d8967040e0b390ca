"""The result of one check, and how other programs are called."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: Name of the thing, which `jobs.JOBS` refers to.
        ok: Whether it is installed and recent enough.
        found: Its version and place, or where it was looked for.
        fix: How exactly to get it; empty if `ok`.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""


def output_of(*command: str, timeout_s: float = 20.0) -> str | None:
    """The output of a program on stdout and stderr, or `None` if it is missing, fails, or exceeds the timeout."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
