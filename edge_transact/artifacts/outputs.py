"""Outputs: complete or absent, and only what this package wrote is replaced, with ``--force``."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from edge_transact.artifacts.dist_files import CHAT_CONFIG, MANIFEST, TOKENIZER_FILES, TUNING
from edge_transact.artifacts.listing import CHANGED, listed, problems
from edge_transact.errors import EdgeTransactError, UsageError
from edge_transact.reading import read_object, user_path

WORKSPACE = ".edge-transact"
"""Suffix of the hidden directory, next to the output, in which the output is written."""

_REPORT = r"[^/]+\.svg|metrics\.jsonl|tensorboard/[^/]+"
_CHECKPOINT = rf"""model(-\d+-of-\d+)?\.safetensors|edge_rounding\.safetensors|model\.safetensors\.index\.json|
    README\.md|generation_config\.json|(configuration|modeling)_edge_llama\.py|
    {"|".join(map(re.escape, TOKENIZER_FILES))}"""
_BUILT = r"([^/]+/)?(build|\.gradle|\.idea|\.kotlin|\.cxx)/.+|(dist|logs)/.+|local\.properties"

_PROJECT = ("bundle.json", "settings.gradle")
MODELS = re.compile(r"(models|libraries|[^/]+/src/main/assets/edge)/")

OURS: dict[tuple[str, ...], str] = {
    (MANIFEST, CHAT_CONFIG): rf"definition/__pycache__/[^/]+|{re.escape(TUNING)}",
    _PROJECT: _BUILT,
    ("edge_transact.json", "config.json"): _CHECKPOINT,
    ("report.json", "index.html"): _REPORT,
    ("results.json", "index.html"): _REPORT,
    ("comparison.json", "index.html"): _REPORT,
}
"""What the commands write: files that every output of a kind has, one of which names the package, and which others
besides those that the first one lists."""

_NAMED = re.compile(rb"edge[-_]transact")
_MOST_READ = 1 << 25  # bytes; the metadata of a GGUF file ends before, the largest vocabularies included


def refuse_existing(
    path: Path,
    force: bool,
    fix: str = "Choose another output, or replace it with --force.",
    *,
    apart_from: Iterable[str | Path | None] = (),
    begins: bytes | None = None,
) -> None:
    """Fails before the work if the output can't be written after it, or would replace more than an output.

    Args:
        apart_from: Inputs and other outputs of the work, which stay even with `force`. Names on the hub do no harm.
        begins: How the file begins that is to be written; `None` for a directory.

    Raises:
        UsageError: `path` is, or is above, one of `apart_from` or the working directory.
        EdgeTransactError: `path` exists, and `force` is off or it isn't an output of that kind and nothing else; or it
            can't be written.
    """
    replaced = Path(os.path.realpath(path))  # `resolve` raises for links in a circle
    for other in (Path.cwd(), *apart_from):  # models of no path are below the working directory
        if other is None:
            continue
        kept = Path(os.path.realpath(user_path(other)))
        if replaced == kept or replaced in kept.parents:
            raise UsageError(f"{path} would replace {other}", fix="Choose another output.")
    if os.path.lexists(path):
        if not force:
            raise EdgeTransactError(f"{path} exists", fix=fix)
        _require_ours(path, begins)
    _require_writable(path)


def _require_ours(path: Path, begins: bytes | None) -> None:
    """Raises an `EdgeTransactError` unless there is an earlier output, which holds nothing else."""
    mode, another = path.lstat().st_mode, "Move it away, or choose another output."
    if stat.S_ISLNK(mode):
        raise EdgeTransactError(f"{path} is a link to {os.readlink(path)}, which stays", fix=another)
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise EdgeTransactError(f"{path} is neither a file nor a directory", fix=another)
    if begins is None and not stat.S_ISDIR(mode):
        raise EdgeTransactError(f"{path} is a file, and the output is a directory", fix=another)
    if begins is None:
        if strangers := _strangers(path):
            raise EdgeTransactError(
                f"{path} holds {', '.join(strangers)}, which edge-transact didn't write",
                fix="--force replaces earlier outputs alone: move it away, or choose another output.",
            )
        if changed := _changed(path):
            raise EdgeTransactError(
                f"{path / changed} was changed since edge-transact wrote it",
                fix="--force replaces no project with others' work in it: --update changes its models alone.",
            )
    elif stat.S_ISDIR(mode):
        raise EdgeTransactError(f"{path} is a directory, and the output is a file", fix=another)
    else:
        with path.open("rb") as file:
            head = file.read(_MOST_READ)
        if head and not (head.startswith(begins) and _NAMED.search(head)):
            raise EdgeTransactError(f"{path} wasn't written by edge-transact, and stays", fix=another)


def _strangers(directory: Path) -> list[str]:
    """The first files in a directory that aren't an output's, at most three; none if it is an output or empty."""
    kind = next((names for names in OURS if _are_ours(directory, names)), ())
    listed, others = set(kind), re.compile(OURS.get(kind, "(?!)"), re.VERBOSE)
    if kind:
        with suppress(OSError, TypeError, EdgeTransactError):
            listed |= set(read_object(directory / kind[0]).get("files", ()))
    strangers: list[str] = []
    for root, directories, files in os.walk(directory):
        links = [name for name in directories if os.path.islink(os.path.join(root, name))]
        for place in (Path(root, name) for name in sorted([*files, *links])):
            path = place.relative_to(directory).as_posix()
            if not stat.S_ISREG(place.lstat().st_mode) or not (path in listed or others.fullmatch(path)):
                strangers.append(path)
        if len(strangers) > 3:
            return [*strangers[:3], "others"]
    return strangers


def _changed(directory: Path) -> str | None:
    """A file that people changed in an app's project, but for the models that `bundle` puts there; `None` elsewhere."""
    if not _are_ours(directory, _PROJECT):
        return None
    record = directory / _PROJECT[0]
    if not (files := listed(record)):
        return record.name
    code = {name: digest for name, digest in files.items() if not MODELS.match(name)}
    return next((name for name, what in problems(directory, code).items() if what == CHANGED), None)


def _are_ours(directory: Path, names: tuple[str, ...]) -> bool:
    files = [directory / name for name in names]
    return all(map(Path.is_file, files)) and any(
        _NAMED.search(file.name.encode()) or _NAMED.search(file.read_bytes()) for file in files
    )


def _require_writable(path: Path) -> None:
    """Tries, before hours of work, what is done after it: a directory beside the output."""
    if ".." in path.parts and not path.parent.exists():
        raise EdgeTransactError(f"{path.parent} does not exist", fix="Write the output's path without `..`.")
    parent = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not parent.is_dir():
        raise EdgeTransactError(f"{parent} is not a directory", fix="Choose another output.")
    try:
        with suppress(FileNotFoundError):
            path.lstat()
        with _workspace(parent, f".{_stem(path)}-"):
            pass
    except OSError as error:
        raise EdgeTransactError(f"{path} can't be written: {error.strerror}", fix="Choose another output.") from error


@contextmanager
def new_directory(path: Path, *, force: bool = False, own: bool = False) -> Iterator[Path]:
    """A directory to fill. It is next to `path`, and renamed to it when the body ends without an error.

    The remains of killed runs with the same output are removed first. With `own`, whatever there is was written by the
    caller and is replaced; otherwise it raises the errors of `refuse_existing`.
    """
    with _fresh(path, force, None, own) as fresh:
        fresh.mkdir()
        yield fresh


@contextmanager
def new_file(path: Path, begins: bytes, *, force: bool = False, own: bool = False) -> Iterator[Path]:
    """A file to write that `begins` so, like `new_directory`."""
    with _fresh(path, force, begins, own) as fresh:
        yield fresh


@contextmanager
def _fresh(path: Path, force: bool, begins: bytes | None, own: bool) -> Iterator[Path]:
    path = Path(os.path.abspath(path))
    prefix = f".{_stem(path)}-"
    _sweep(path.parent, prefix, path)
    if not own:
        refuse_existing(path, force, begins=begins)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _workspace(path.parent, prefix) as workspace:
        fresh, old = workspace / "new", workspace / "old"
        yield fresh
        if not own and os.path.lexists(path):
            refuse_existing(path, force, begins=begins)
        try:
            if os.path.lexists(path):
                # A directory can't be renamed over another: the old output is moved away first, and back on failure.
                os.replace(path, old)
            os.replace(fresh, path)
        except BaseException:
            if os.path.lexists(old) and not os.path.lexists(path):
                os.replace(old, path)
            raise


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """An empty directory in ``$TMPDIR`` for the body. Those of killed runs are removed first."""
    parent, prefix = Path(tempfile.gettempdir()), "scratch-"
    _sweep(parent, prefix)
    with _workspace(parent, prefix) as workspace:
        scratch = workspace / "new"
        scratch.mkdir()
        yield scratch


@contextmanager
def _workspace(parent: Path, prefix: str) -> Iterator[Path]:
    """A new directory that begins so. Its lock is held, containers that share `parent` see that, too."""
    # Named here, and not by tempfile: an interrupt while it is made would leave a directory of unknown name.
    begun = parent / f"{prefix}{secrets.token_hex(8)}{WORKSPACE}.begun"
    lock = FileLock(begun / "lock")
    try:
        begun.mkdir(mode=0o700)
        lock.acquire()
        # Another run may sweep from now on, and finds it locked.
        yield begun.rename(begun.with_suffix(""))
    finally:
        for directory in (begun, begun.with_suffix("")):
            try:
                shutil.rmtree(directory, ignore_errors=True)
            except KeyboardInterrupt:
                shutil.rmtree(directory, ignore_errors=True)
                raise
        lock.release()


def _stem(path: Path) -> str:
    """An output's name in those of its workspaces, which may be no longer than 255 bytes."""
    name = os.fsencode(path.name)
    return path.name if len(name) < 200 else hashlib.sha256(name).hexdigest()


def _sweep(parent: Path, prefix: str, path: Path | None = None) -> None:
    """Removes workspaces that no process holds, and moves back the output `path` that a killed run had moved away."""
    pattern = re.compile(rf"{re.escape(prefix)}[a-f0-9]{{16}}{re.escape(WORKSPACE)}(\.begun)?")
    found = list(parent.iterdir()) if parent.is_dir() else []
    for left in (left for left in found if pattern.fullmatch(left.name) and not left.is_symlink()):
        try:
            of_another = left.stat().st_uid != os.getuid()
            if of_another or (left.suffix == ".begun" and time.time() - left.stat().st_mtime < 60):
                continue
            with FileLock(left / "lock", timeout=0):
                if path and (left / "old").exists() and not os.path.lexists(path):
                    os.replace(left / "old", path)
                shutil.rmtree(left, ignore_errors=True)
        except (Timeout, OSError):
            continue  # another process is writing there
