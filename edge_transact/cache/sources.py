"""Names of models and texts in what others read, and where on this machine a record's source lies.

A record that is published names a local path by its last part. The path itself is kept in the cache, keyed by the
record's sha256, so that `heal` and `build` find the source wherever the checkpoint is moved or copied.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_transact.artifacts.digests import sha256
from edge_transact.cache import KEY_LENGTH, cache_directory
from edge_transact.reading import user_path


def public(value: Any) -> Any:
    """JSON values in which the last part of each local path takes its place; hub ids and names of demos stay."""
    if isinstance(value, Mapping):
        return {key: public(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(entry) for entry in value]
    if not isinstance(value, str):
        return value
    path = str(user_path(value))
    is_local = os.path.isabs(path) or value.startswith(".") or ("/" in value and os.path.exists(path))
    return os.path.basename(os.path.abspath(path)) if is_local else value


def remember_source(record: Path, source: object) -> None:
    """Keeps where the source of a record lies, if that is a local path."""
    if isinstance(source, str) and public(source) != source:
        with suppress(OSError):  # it is only looked up for convenience
            _place(record).parent.mkdir(parents=True, exist_ok=True)
            _place(record).write_text(os.path.abspath(user_path(source)))


def source_of(record: Path, name: str) -> str:
    """The path of the source that a record calls `name`; `name` itself if none is known."""
    place = _place(record)
    return place.read_text() if place.is_file() else name


def _place(record: Path) -> Path:
    return cache_directory() / "sources" / sha256(record)[:KEY_LENGTH]
