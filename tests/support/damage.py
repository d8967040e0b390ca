"""Files that a disk, a copy or a person has damaged."""

import os
import random
from collections.abc import Callable
from pathlib import Path


def flip(path: Path, at: int | None = None) -> None:
    """Changes one bit of a file, as a disk does: of the byte at this offset, or one chosen by the file's name."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    chosen = random.Random(path.name).randrange(len(content)) if at is None else at
    content[chosen] ^= 1 << random.Random(chosen).randrange(8)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def truncate(path: Path) -> None:
    """Takes a file's last byte, as somebody does who edits it later."""
    path.write_bytes(path.read_bytes()[:-1])
    later_ns = path.parent.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later_ns, later_ns))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit": flip,
    "a bit of its first byte": lambda path: flip(path, 0),
    "truncated": truncate,
}
