"""Where converted models are kept: ``$EDGE_TRANSACT_CACHE``, or ``edge-transact`` in the user's cache directory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from edge_transact.outputs import new_directory

CONVERSION_VERSION = 1
"""Raised when a conversion changes, so that directories made by an older one are left alone."""


def cache_directory() -> Path:
    """The root of the cache; it need not exist."""
    if root := os.environ.get("EDGE_TRANSACT_CACHE"):
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edge-transact"


def converted(source: Path, name: str, convert: Callable[[Path], None]) -> Path:
    """The checkpoint directory that `convert` makes of a file, made once for each content.

    Args:
        source: The file; its sha256 is the key, so a changed file is converted again.
        name: The directory's own name.
        convert: Fills the directory that it is given.
    """
    with source.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    directory = cache_directory() / f"converted-{CONVERSION_VERSION}" / digest[:16] / name
    if not directory.is_dir():
        # Two processes may convert at once: the later one replaces the former's directory by an equal one.
        with new_directory(directory, force=True) as fresh:
            convert(fresh)
    return directory
