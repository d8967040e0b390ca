"""Output directories: complete or absent, and never overwritten unasked."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from edge_transact.errors import EdgeTransactError

WORKSPACE = ".edge-transact"
"""How the name of a directory ends in which an output is written; it stands beside the output, hidden."""


def refuse_existing(path: Path, force: bool) -> None:
    """Fails before the work rather than after it.

    Raises:
        EdgeTransactError: `path` exists and `force` is off, or its parent is a file.
    """
    if os.path.lexists(path) and not force:
        raise EdgeTransactError(f"{path} exists", fix="Choose another output, or replace it with --force.")
    for parent in path.absolute().parents:
        if parent.exists():
            if not parent.is_dir():
                raise EdgeTransactError(f"{parent} is not a directory", fix="Choose another output.")
            break


@contextmanager
def new_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A directory to fill, written beside `path` and renamed to it when the body ends without an error.

    What a run that was killed has left of the same output is removed first.

    Args:
        path: Where the directory appears; parents are made.
        force: Replace what is there.

    Yields:
        The directory to write into, on the same file system.

    Raises:
        EdgeTransactError: As `refuse_existing`.
    """
    path = Path(os.path.abspath(path))
    _sweep(path)
    refuse_existing(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=WORKSPACE, dir=path.parent))
    lock = FileLock(workspace / "lock")
    lock.acquire()
    try:
        fresh = workspace / "new"
        fresh.mkdir()
        yield fresh
        if os.path.lexists(path):
            # A directory cannot be renamed over another: what was there steps aside first, and comes back on failure.
            refuse_existing(path, force)
            os.replace(path, workspace / "old")
        try:
            os.replace(fresh, path)
        except OSError:
            if os.path.lexists(workspace / "old"):
                os.replace(workspace / "old", path)
            raise
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
        lock.release()


def _sweep(path: Path) -> None:
    """Removes the workspaces that no process holds; an output that one of them had put aside comes back."""
    for left in path.parent.glob(f".{glob.escape(path.name)}-*{WORKSPACE}"):
        try:
            with FileLock(left / "lock", timeout=0):
                if (left / "old").exists() and not os.path.lexists(path):
                    os.replace(left / "old", path)
                shutil.rmtree(left, ignore_errors=True)
        except (Timeout, OSError):
            continue  # another process is writing there, or it isn't ours
