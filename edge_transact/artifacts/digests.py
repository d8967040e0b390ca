"""sha256 of files and texts: what a cache key, a manifest and a benchmark record identify content by."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_BLOCK_BYTES = 1 << 20


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return hashlib.sha256().hexdigest()
        # In one call, in which other threads of Python go on. Between blocks, this one would wait for them.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return hashlib.sha256(content).hexdigest()


def copy(source: Path, target: Path) -> str:
    """Copies a file's content and returns its sha256; the file is read once."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(_BLOCK_BYTES):
            digest.update(block)
            writer.write(block)
    return digest.hexdigest()


def ends_in_digest(path: Path) -> bool:
    """Whether a file's last 32 bytes are the sha256 of all bytes before them."""
    digest = hashlib.sha256()
    # Read and not mapped: a disk's error would end the process.
    with suppress(OSError), path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - digest.digest_size
        while left > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
        return left == 0 and file.read() == digest.digest()
    return False


def text_digest(text: str) -> str:
    """The sha256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def files_digest(files: Iterable[Path]) -> str:
    """One sha256 over the names and contents of files, in hex."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    return digest.hexdigest()
