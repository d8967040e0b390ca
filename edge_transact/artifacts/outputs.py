"""Outputs: complete or absent, and never overwritten without ``--force``."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from edge_transact.errors import EdgeTransactError, UsageError

WORKSPACE = ".edge-transact"
"""Suffix of the hidden directory, next to the output, in which the output is written."""


def refuse_existing(
    path: Path,
    force: bool,
    fix: str = "Choose another output, or replace it with --force.",
    *,
    apart_from: Iterable[str | Path | None] = (),
) -> None:
    """Fails before the work if the output can't be written after it, or would replace more than an output.

    Args:
        apart_from: Inputs and other outputs of the work, which stay even with `force`. Names on the hub do no harm.

    Raises:
        UsageError: `path` is, or is above, one of `apart_from` or the working directory.
        EdgeTransactError: `path` exists and `force` is off, or a parent of `path` is a file.
    """
    replaced = path.resolve()
    for other in (*apart_from, Path.cwd()):
        if other is None:
            continue
        kept = Path(other).resolve()
        if replaced == kept or replaced in kept.parents:
            raise UsageError(f"{path} would replace {other}", fix="Choose another output.")
    if os.path.lexists(path) and not force:
        raise EdgeTransactError(f"{path} exists", fix=fix)
    for parent in path.absolute().parents:
        if parent.exists():
            if not parent.is_dir():
                raise EdgeTransactError(f"{parent} is not a directory", fix="Choose another output.")
            break


@contextmanager
def new_directory(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A directory to fill. It is next to `path`, and renamed to it when the body ends without an error.

    The remains of killed runs with the same output are removed first.

    Raises:
        UsageError, EdgeTransactError: See `refuse_existing`.
    """
    with new_file(path, force=force) as fresh:
        fresh.mkdir()
        yield fresh


@contextmanager
def new_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A file to write, like `new_directory`: next to `path`, and renamed to it when the body ends without an error."""
    path = Path(os.path.abspath(path))
    _sweep(path)
    refuse_existing(path, force)
    path.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{path.name}-", suffix=WORKSPACE, dir=path.parent))
    lock = FileLock(workspace / "lock")
    lock.acquire()
    try:
        fresh = workspace / "new"
        yield fresh
        if os.path.lexists(path):
            # A directory can't be renamed over another: the old output is moved away first, and back on failure.
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
    """Removes workspaces that no process holds, and moves back an old output that a killed run had moved away."""
    for left in path.parent.glob(f".{glob.escape(path.name)}-*{WORKSPACE}"):
        try:
            with FileLock(left / "lock", timeout=0):
                if (left / "old").exists() and not os.path.lexists(path):
                    os.replace(left / "old", path)
                shutil.rmtree(left, ignore_errors=True)
        except (Timeout, OSError):
            continue  # another process is writing there, or the directory belongs to another user
