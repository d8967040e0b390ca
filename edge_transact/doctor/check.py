"""One thing that was looked for, and the way in which other programs are asked."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was looked for.

    Attributes:
        name: What, in a word; `jobs.JOBS` refers to it.
        ok: It is there and recent enough.
        found: What was found, with its version and place; where nothing was, where it was looked for.
        fix: The exact way to get it; empty when `ok`.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""


def output_of(*command: str, timeout_s: float = 20.0) -> str | None:
    """What a program prints on stdout and stderr, or `None` where it is missing, fails, or does not answer in time."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
