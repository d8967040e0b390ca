"""What was made before, kept by what it was made of: converted and pruned checkpoints, quantized weights, libraries.

The root is ``$EDGE_TRANSACT_CACHE``, or ``edge-transact`` in the user's cache directory. An entry lies in
``KIND/KEY/``; KEY is a digest of its ingredients, everything that its content depends on, the code that makes it
included. So an entry is never out of date, only unused, and may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from edge_transact.artifacts.outputs import new_directory

logger = logging.getLogger(__name__)

RECORD = "entry.json"
"""Beside an entry's content: what it is, its ingredients, and the size and sha256 of each of its files."""

KINDS = {
    "converted": "GGUF files and demo models as checkpoints",
    "pruned": "pruned checkpoints",
    "weights": "quantized parameter shards",
    "libraries": "compiled model libraries",
}

enabled = True
"""Whether entries are used; off with the global ``--no-cache``. What is made is kept either way."""

_PACKAGE = Path(__file__).parents[1]


def cache_directory() -> Path:
    """The root of the cache; it need not exist."""
    if root := os.environ.get("EDGE_TRANSACT_CACHE"):
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "edge-transact"


@dataclass(frozen=True)
class Recipe:
    """Something to make, or to take from the cache.

    Attributes:
        kind: One of `KINDS`.
        what: For people, such as ``quantize to q4f16_0``.
        ingredients: Everything that the content depends on, as JSON values.
        make: Fills the directory that it is given.
        name: That directory's own name.
    """

    kind: str
    what: str
    ingredients: Mapping[str, Any]
    make: Callable[[Path], object]
    name: str = "content"

    @property
    def entry(self) -> Path:
        """Where the cache keeps it."""
        content = json.dumps(self.ingredients, sort_keys=True)
        return cache_directory() / self.kind / hashlib.sha256(content.encode()).hexdigest()[:20]


def made(recipe: Recipe) -> Path:
    """The directory that the recipe fills: made now, or taken from the cache, and said which. Not to be written to."""
    directory = recipe.entry / recipe.name
    with _lock(recipe):
        if enabled and _is_whole(recipe):
            os.utime(recipe.entry)
            # That an input was converted before is no news; that a stage is skipped is.
            level = logging.DEBUG if recipe.kind == "converted" else logging.INFO
            logger.log(level, f"{recipe.what}: nothing has changed, reused from the cache")
        else:
            logger.info(recipe.what)
            logger.debug(f"{recipe.what}: {_why(recipe)}")
            _make(recipe)
        logger.debug(f"{recipe.what}: {directory}")
    return directory


@contextmanager
def _lock(recipe: Recipe) -> Iterator[None]:
    """Two processes that want the same: the second waits, and then takes what the first has made."""
    directory = cache_directory() / "locks"
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / f"{recipe.kind}-{recipe.entry.name}")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info(f"{recipe.what}: waiting for another process that is at it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_whole(recipe: Recipe) -> bool:
    record = _read_record(recipe.entry)
    return record is not None and _sizes(recipe.entry / recipe.name) == {
        name: size for name, (size, _) in record["files"].items()
    }


def _why(recipe: Recipe) -> str:
    """Why a recipe is made and not taken, for those who wonder."""
    if not enabled:
        return "made again, as --no-cache says"
    if recipe.entry.exists():
        return "what the cache has of it is not whole"
    records = [_read_record(entry.path) for entry in entries() if entry.kind == recipe.kind]
    before = next((record["ingredients"] for record in records if record and record["what"] == recipe.what), None)
    if before is None:
        return "the cache has nothing of that name"
    now = json.loads(json.dumps(recipe.ingredients))
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return f"not as it was the last time: {', '.join(changed)}"


def _make(recipe: Recipe) -> None:
    started = time.perf_counter()
    with new_directory(recipe.entry, force=True) as fresh:
        content = fresh / recipe.name
        content.mkdir()
        recipe.make(content)
        record = {
            "what": recipe.what,
            "ingredients": dict(recipe.ingredients),
            "seconds": round(time.perf_counter() - started, 3),
            "files": {name: (size, sha256(content / name)) for name, size in _sizes(content).items()},
        }
        (fresh / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def place(recipe: Recipe, output: Path) -> None:
    """Copies what the recipe makes into `output`, every file checked against its sha256 on the way.

    Copies and not links: an output may be edited, and the cache would be edited with it.
    """
    source = made(recipe)
    if damaged := _damaged(recipe.entry, source):
        logger.warning(f"{source / damaged} is not as it was made: making it again")
        shutil.rmtree(recipe.entry)
        source = made(recipe)
    for name in _sizes(source):
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target)


def code(*paths: str) -> str:
    """A digest of our own code: files and folders of the package, or of ``templates/`` beside or inside it."""
    digest = hashlib.sha256()
    for path in paths:
        root = next(base for base in (_PACKAGE / path, _PACKAGE.parent / path) if base.exists())
        files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if _is_source(file))
        for file in files:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def files_digest(files: Iterable[Path]) -> str:
    """One sha256 over the names and contents of files."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    return digest.hexdigest()


def text_digest(text: str) -> str:
    """The sha256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class Entry:
    """One entry, for ``edge-transact cache``.

    Attributes:
        kind: One of `KINDS`.
        what: What it is; empty for what an interrupted run left behind.
        path: Its directory.
        size_bytes: Of all its files.
        used: When it was last made or used, seconds since the epoch.
    """

    kind: str
    what: str
    path: Path
    size_bytes: int
    used: float


def entries() -> list[Entry]:
    """All that is in the cache, the latest used first."""
    found = []
    for kind in KINDS:
        for path in (cache_directory() / kind).glob("*/"):
            record = None if path.name.startswith(".") else _read_record(path)
            # What another process finishes or clears meanwhile isn't there any more.
            with suppress(FileNotFoundError):
                size = sum(_sizes(path).values())
                found.append(Entry(kind, record["what"] if record else "", path, size, path.stat().st_mtime))
    return sorted(found, key=lambda entry: -entry.used)


def clear(kinds: Iterable[str]) -> list[Entry]:
    """Deletes all entries of these kinds, and nothing else that lies in the cache's root. Returns what was deleted."""
    deleted = [entry for entry in entries() if entry.kind in set(kinds)]
    for entry in deleted:
        shutil.rmtree(entry.path, ignore_errors=True)
    return deleted


def _read_record(entry: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((entry / RECORD).read_text())
        return record if record.keys() >= {"what", "ingredients", "files"} else None
    except (OSError, ValueError, AttributeError):
        return None


def _is_source(file: Path) -> bool:
    return file.is_file() and file.parent.name != "__pycache__"


def _damaged(entry: Path, content: Path) -> str | None:
    """The first file that isn't as it was made."""
    record = _read_record(entry) or {"files": {}}
    return next((name for name, (_, digest) in record["files"].items() if sha256(content / name) != digest), None)


def _sizes(directory: Path) -> dict[str, int]:
    return {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
