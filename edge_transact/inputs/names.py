"""What MODEL and TEXT names share: suggestions for nearly right ones, and the packages behind demo names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from edge_transact.errors import EdgeTransactError


def suggestion(name: str, demos: Iterable[str]) -> str:
    """``Did you mean ...?`` with the nearest of the demo names and the files beside `name`, or nothing."""
    parent = Path(name).expanduser().parent
    beside = parent.iterdir() if parent.is_dir() else ()
    # `smollm2` means `demo:smollm2`, so demo names count without their prefix, and paths by their last part.
    candidates = {entry.name: str(parent / entry.name) for entry in beside}
    candidates |= {demo.removeprefix("demo:"): demo for demo in demos}
    close = difflib.get_close_matches(Path(name.removeprefix("demo:")).name, candidates, n=1, cutoff=0.6)
    return f"Did you mean {candidates[close[0]]}?" if close else ""


def package_directory(package: str, name: str) -> Path:
    """Where the package that `name` stands for is installed; found without importing it.

    Raises:
        EdgeTransactError: It isn't installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EdgeTransactError(
            f"{name} comes in the package {package.replace('_', '-')}, which is not installed",
            fix="pip install 'edge-transact[demo]'",
        )
    return Path(spec.submodule_search_locations[0])
