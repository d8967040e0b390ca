"""Directories with a JSON file that lists the sha256 of the others, and has its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_transact.artifacts.digests import SEAL, UNSEALED, is_sealed, seal, sha256
from edge_transact.reading import checked, read_object

CHANGED = "was changed"

FILES = "files"
"""The key of the list: path relative to the directory, to sha256 in hex."""


def write_listing(
    listing: Path, content: Mapping[str, Any], known: Mapping[str, str] | None = None, apart_from: str = ""
) -> None:
    """Writes `content` as JSON with the sha256, `known` or computed, of all files beside it but `apart_from`."""
    known = known or {}
    names = [name for name in files_beside(listing) if name != apart_from]
    write_sealed(listing, content, {name: known.get(name) or sha256(listing.parent / name) for name in names})


def write_sealed(listing: Path, content: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Writes `content` as JSON with such a list, and the sha256 of it all."""
    listing.write_text(json.dumps({**content, FILES: files, SEAL: UNSEALED}, indent=2) + "\n")
    seal(listing)


def files_beside(listing: Path) -> list[str]:
    """The other files in a listing's directory, relative to that, sorted."""
    paths = (path for path in listing.parent.rglob("*") if path.is_file() and path != listing)
    # Python leaves __pycache__ beside a definition that MLC-LLM loads.
    return sorted(path.relative_to(listing.parent).as_posix() for path in paths if path.parent.name != "__pycache__")


def problems(directory: Path, files: Mapping[str, str]) -> dict[str, str]:
    """What is wrong with the files of a list, by name."""
    found = {}
    for name, expected in files.items():
        if not (directory / name).is_file():
            found[name] = "is missing"
        elif sha256(directory / name) != expected:
            found[name] = CHANGED
    return found


def listed(listing: Path) -> dict[str, str]:
    """The list; empty if there is none, or if the file was changed since."""
    if is_sealed(listing) is not True:
        return {}
    return checked(dict[str, str], read_object(listing).get(FILES), listing)
