"""sha256 of files and texts: what a cache key, a manifest and a benchmark record identify content by."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

SEAL, UNSEALED = "self_sha256", "0" * 64
"""The key of a file's own sha256 in it, computed with `UNSEALED` as its value; see `seal`."""

_BLOCK_BYTES = 1 << 20

_HASHED_BYTES = 1 << 22
"""Of a file at once. Between blocks, a thread waits for others of Python."""

_SEAL = re.compile(rb'self_sha256(?:": "|\x08\0{3}\x40\0{7})([0-9a-f]{64})')
"""In JSON, and in GGUF, where type and length are before a value."""

_MOST_BEFORE = 1 << 25  # bytes; the metadata of a GGUF file ends before, the largest vocabularies included


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    # Read and not mapped: a disk's error would end the process.
    with path.open("rb", buffering=0) as file:
        block = memoryview(bytearray(min(os.fstat(file.fileno()).st_size + 1, _HASHED_BYTES)))
        while count := file.readinto(block):
            digest.update(block[:count])
    return digest.hexdigest()


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
    with suppress(OSError), path.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - digest.digest_size
        while left > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
            digest.update(block)
            left -= len(block)
        return left == 0 and file.read() == digest.digest()
    return False


def seal(path: Path) -> None:
    """Writes a file's own sha256 into it, where it has `UNSEALED` as the value of the key `SEAL`."""
    found = _seal_of(path)
    assert found and found[1] == UNSEALED, path
    with path.open("r+b") as file:
        file.seek(found[0])
        file.write(found[2].encode())


def is_sealed(path: Path) -> bool | None:
    """Whether a file is as `seal` left it; `None` if it has no `SEAL`."""
    found = _seal_of(path)
    return None if found is None else found[1] == found[2]


def _seal_of(path: Path) -> tuple[int, str, str] | None:
    """Where a file's own sha256 begins, its value there, and as it should be."""
    with path.open("rb") as file:
        head = bytearray(file.read(_MOST_BEFORE))
        if (match := _SEAL.search(head)) is None:
            return None
        start, stored = match.start(1), match[1].decode()
        head[start : start + len(stored)] = UNSEALED.encode()
        digest = hashlib.sha256(head)
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return start, stored, digest.hexdigest()


def text_digest(text: str) -> str:
    """The sha256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def files_digest(files: Iterable[Path]) -> str:
    """One sha256 over the names and contents of files, in hex."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    return digest.hexdigest()
