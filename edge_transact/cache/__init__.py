"""The cache of converted and pruned checkpoints, quantized weights and libraries, keyed by what each was made from.

The root is ``$EDGE_TRANSACT_CACHE``, or ``edge-transact`` in the user's cache directory. An entry is in ``KIND/KEY/``.
KEY is a digest of the entry's ingredients: everything that its content depends on, including the code that makes it.
An entry is therefore never out of date, only unused, and can be deleted at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from edge_transact.artifacts.digests import sha256
from edge_transact.artifacts.outputs import new_directory
from edge_transact.errors import EdgeTransactError
from edge_transact.reading import user_path

logger = logging.getLogger(__name__)

RECORD = "entry.json"
"""The file next to an entry's content that holds its `Record`."""

KEY_LENGTH = 20

UNFINISHED = "unfinished"

KINDS = {
    "downloads": "weights of demo models, as published",
    "converted": "GGUF files and demo models as checkpoints",
    "texts": "text that models wrote",
    "scores": "what cutting each part of a model costs, for prunings to any size",
    "answers": "what models answered to a dozen questions",
    "pruned": "pruned checkpoints",
    "healed": "checkpoints that were trained after pruning",
    "rounded": "weights rounded to 4 bits with calibration text",
    "weights": "quantized parameter shards",
    "libraries": "compiled model libraries",
    "dists": "models that `bench` built",
    "runners": "portable runners for phones",
    "engines": "projects in which MLC's engine is built for apps",
    "kernels": "kernels of host libraries as machine code",
    UNFINISHED: "what interrupted runs have done so far",
    "times": "how long the steps of commands took",
}

enabled = True
"""Whether existing entries are used; ``--no-cache`` turns it off. New entries are kept either way."""

making: ContextVar[str] = ContextVar("making", default="")
"""The entry that is being made, as ``KIND/KEY``; empty if none is."""

_opening = threading.Lock()


def cache_directory() -> Path:
    """The root of the cache, which may not exist yet."""
    if root := os.environ.get("EDGE_TRANSACT_CACHE"):
        return user_path(root)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "edge-transact"


class Record(BaseModel):
    """How an entry was made, with size and sha256 of its files by path relative to the content's directory."""

    what: str
    ingredients: dict[str, object]
    seconds: float = 0.0
    files: dict[str, tuple[int, str]]


@dataclass(frozen=True)
class Recipe:
    """A directory to make, or to take from the cache; the log tells of it if it `is_step`, or with ``--verbose``."""

    kind: str
    what: str
    ingredients: Mapping[str, object]
    make: Callable[[Path], object]
    name: str = "content"
    is_step: bool = True

    @property
    def entry(self) -> Path:
        return entry_of(self.kind, self.ingredients)


def entry_of(kind: str, ingredients: Mapping[str, object]) -> Path:
    """The directory of an entry that is made from these ingredients."""
    content = json.dumps(ingredients, sort_keys=True)
    return cache_directory() / kind / hashlib.sha256(content.encode()).hexdigest()[:KEY_LENGTH]


def made(recipe: Recipe) -> Path:
    """The directory that the recipe fills, made now or taken from the cache. Don't write to it.

    It isn't cleared while this process runs. The sha256 of what comes from the cache is checked once in a process,
    which takes about a second a gigabyte; a damaged entry is made again.
    """
    with lock(recipe.entry, recipe.what):
        return _made(recipe)


def _made(recipe: Recipe) -> Path:
    """`made`. Needs the entry's `lock`."""
    record = _complete_record(recipe) if enabled else None
    for name, (_, expected) in record.files.items() if record else ():
        file = recipe.entry / recipe.name / name
        if _digest(file, file.stat().st_mtime_ns) != expected:
            logger.warning(f"{file} is not as it was made: making it again")
            shutil.rmtree(recipe.entry)
            record = None
            break
    if record is None:
        logger.log(logging.INFO if recipe.is_step else logging.DEBUG, recipe.what)
        if recipe.is_step and logger.isEnabledFor(logging.DEBUG):
            logger.debug(f"{recipe.what}: {_why(recipe)}")
        _make(recipe)
    else:
        os.utime(recipe.entry)
        # That an input was downloaded or converted before is no news; that a stage is skipped is.
        level = logging.INFO if recipe.is_step and recipe.kind not in ("converted", "downloads") else logging.DEBUG
        logger.log(level, f"{recipe.what}: nothing has changed, reused from the cache")
    logger.debug(f"{recipe.what}: {recipe.entry / recipe.name}")
    hold(recipe.entry)
    return recipe.entry / recipe.name


@cache
def _digest(file: Path, _changed_ns: int) -> str:
    return sha256(file)


def is_lacking(recipe: Recipe) -> bool:
    return not enabled or _complete_record(recipe) is None


@contextmanager
def lock(entry: Path, what: str) -> Iterator[None]:
    """Lets one process at a time make an entry, or what has its name. The others wait, and find an entry made."""
    held = lock_of(entry)
    try:
        held.acquire(blocking=False)
    except Timeout:
        logger.info(f"{what}: waiting for another process that is at work on it")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def lock_of(entry: Path) -> FileLock:
    return FileLock(locks() / _name(entry))


def _name(entry: Path) -> str:
    return f"{entry.parent.name}-{entry.name}"


def locks() -> Path:
    """The directory of locks; an `EdgeTransactError` if the cache can't have one, and so nothing else."""
    directory = cache_directory() / "locks"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"the cache {cache_directory()} can't be used: {error.strerror}"
        raise EdgeTransactError(what, fix="Set EDGE_TRANSACT_CACHE to another directory.") from error
    return directory


def hold(entry: Path) -> None:
    """Keeps other processes from clearing an entry as long as this one runs. Any number of processes can hold it."""
    _hold(entry, fcntl.LOCK_SH)


def _hold(entry: Path, operation: int) -> None:
    # A byte of one file stands for the entry, so any number of them takes one descriptor.
    with _opening:
        file = _held(locks() / "held")
    fcntl.lockf(file, operation, 1, crc32(_name(entry).encode()))


@cache
def _held(path: Path) -> BinaryIO:
    """The file, open while the process runs: closing any descriptor of it would release all that is held."""
    return path.open("a+b")


def _complete_record(recipe: Recipe) -> Record | None:
    """The entry's record; `None` unless all of its files are there with the recorded sizes."""
    record = read_record(recipe.entry)
    if record is None:
        return None
    sizes = {name: size for name, (size, _) in record.files.items()}
    return record if _sizes(recipe.entry / recipe.name) == sizes else None


def _why(recipe: Recipe) -> str:
    """Why an entry is made rather than taken from the cache, for ``--verbose``."""
    if not enabled:
        return "made again, as --no-cache says"
    if recipe.entry.exists():
        return "the cache's entry is incomplete"
    records = [read_record(entry.path) for entry in entries() if entry.kind == recipe.kind]
    before = next((record.ingredients for record in records if record and record.what == recipe.what), None)
    if before is None:
        return "the cache has nothing of that name"
    changed = differences(before, recipe.ingredients)
    return f"not as it was the last time: {', '.join(name for name, *_ in changed)}"


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[tuple[str, object, object]]:
    """Ingredients, or values in them, that aren't as they were: the name, and both values as JSON has them."""
    found: list[tuple[str, object, object]] = []
    now = json.loads(json.dumps(now))
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new)
        elif old != new and name not in [known for known, *_ in found]:
            found.append((name, old, new))
    return found


def _make(recipe: Recipe) -> None:
    started = time.perf_counter()
    with new_directory(recipe.entry, own=True) as fresh:
        content = fresh / recipe.name
        content.mkdir()
        token = making.set(f"{recipe.kind}/{recipe.entry.name}")
        try:
            recipe.make(content)
        finally:
            making.reset(token)
        record = Record(
            what=recipe.what,
            ingredients=dict(recipe.ingredients),
            seconds=round(time.perf_counter() - started, 3),
            files={name: (size, sha256(content / name)) for name, size in _sizes(content).items()},
        )
        write_record(fresh, record)


def place(recipe: Recipe, output: Path) -> dict[str, str]:
    """Copies what the recipe makes into `output`, where a user may edit it. Returns the sha256 of its files."""
    with lock(recipe.entry, recipe.what):
        content, record = _made(recipe), read_record(recipe.entry)
        assert record is not None
        for name in record.files:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(content / name, output / name)
    return {name: digest for name, (_, digest) in record.files.items()}


@dataclass(frozen=True)
class Entry:
    """An entry, as ``edge-transact cache`` lists it; `what` is empty if a killed process was writing it."""

    kind: str
    what: str
    path: Path
    size_bytes: int
    used: float


def entries() -> list[Entry]:
    """All entries of the cache, the most recently used first."""
    found = []
    for kind in KINDS:
        for path in (cache_directory() / kind).glob("*/"):
            record = None if path.name.startswith(".") else read_record(path)
            # Another process may clear or replace an entry while it is looked at.
            with suppress(FileNotFoundError):
                size = sum(_sizes(path).values())
                found.append(Entry(kind, record.what if record else "", path, size, path.stat().st_mtime))
    return sorted(found, key=lambda entry: -entry.used)


def clear(kinds: Iterable[str]) -> list[Entry]:
    """Deletes the entries of these kinds that no other process makes or reads, and returns them."""
    deleted = []
    for entry in entries():
        if entry.kind not in set(kinds):
            continue
        # What is written for an entry is in `.KEY-...` beside it, under the entry's lock.
        whole = entry.path.with_name(entry.path.name.lstrip(".")[:KEY_LENGTH])
        with suppress(Timeout, BlockingIOError), lock_of(whole).acquire(timeout=0):
            _hold(whole, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.path, ignore_errors=True)
            _hold(whole, fcntl.LOCK_UN)
            deleted.append(entry)
    return deleted


def write_record(entry: Path, record: Record) -> None:
    """Writes how an entry was made into its directory, which may not exist yet."""
    entry.mkdir(parents=True, exist_ok=True)
    (entry / RECORD).write_text(record.model_dump_json(indent=2) + "\n")


def read_record(entry: Path) -> Record | None:
    """How an entry was made; `None` if it doesn't say."""
    try:
        return Record.model_validate_json((entry / RECORD).read_bytes())
    except (OSError, ValidationError):
        return None


def _sizes(directory: Path) -> dict[str, int]:
    return {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
