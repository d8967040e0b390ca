"""Whether a disk has space for a file, before the work that fills it."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_transact.errors import EdgeTransactError
from edge_transact.formatting import megabytes


def require_space(directory: Path, size_bytes: int, what: str, fix: str) -> None:
    """Raises an `EdgeTransactError` if the disk of a directory has less space than `what`, such as ``a file needs``."""
    free = shutil.disk_usage(directory).free
    if size_bytes > free:
        message = f"{what} {megabytes(size_bytes)}, and the disk of {directory} has {megabytes(free)} left"
        raise EdgeTransactError(message, fix=fix)
