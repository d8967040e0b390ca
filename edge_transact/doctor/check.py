"""The result of one check, and calls of other programs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """The result of one check: the version and place, or where doctor looked, and what gets a missing thing."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def verdict(name: str, ok: bool, found: str, fix: str) -> Check:
    """A check, with its fix only if something is missing."""
    return Check(name, ok, found, "" if ok else fix)


def output_of(*command: str, timeout_s: float = 20.0) -> str | None:
    """The output of a program on stdout and stderr, or `None` if it is missing, fails, or exceeds the timeout."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else None
