"""The door for files from outside: regular files of bounded sizes, whose errors name the file and what to do.

JSON is at most 200 deep, and its integers have at most 4,300 digits (pydantic's parser).
"""

from __future__ import annotations

import codecs
import html
import io
import json
import os
import re
import stat
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from edge_transact.errors import EdgeTransactError, first_problem

MOST_BYTES = 64 << 20
"""The most that is read of a file at once, unless a caller says otherwise; large tokenizers have 35 MB."""

MOST_ARCHIVE_BYTES = 16 << 20

AGAIN = "Copy or download the file again."

_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFDIR: "a directory"}
_UTF16 = "it is UTF-16"
_MARKS = {codecs.BOM_UTF8: "a byte order mark", codecs.BOM_UTF16_LE: _UTF16, codecs.BOM_UTF16_BE: _UTF16}

T = TypeVar("T")


def user_path(name: str | Path) -> Path:
    """A path as a user gave it, with the home directory for ``~``; a user's that isn't there stays as it is."""
    with suppress(ValueError):  # a NUL in the name
        return Path(os.path.expanduser(name))
    return Path(name)


def without_home(text: str) -> str:
    """Text that others get, plain or in JSON or HTML, with ``~`` for the user's home directory."""
    home = os.path.expanduser("~")
    for written in {home, json.dumps(home)[1:-1], html.escape(home)} if len(home) > 1 else ():
        text = re.sub(rf"{re.escape(written)}(?![\w.-])", "~", text)
    return text


def opened(path: Path, fix: str = AGAIN) -> IO[bytes]:
    """A regular file, open for reading.

    Raises:
        FileNotFoundError: There is none of this name.
        EdgeTransactError: It is a FIFO or a device, which may never end, or a directory, or it can't be opened.
    """
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        name = str(path).replace("\0", "\\0")
        raise EdgeTransactError(f"{name} can't be read: {getattr(error, 'strerror', error)}", fix=fix) from error
    kind = stat.S_IFMT(os.fstat(file.fileno()).st_mode)
    if kind != stat.S_IFREG:
        file.close()
        raise EdgeTransactError(f"{path} is {_KINDS.get(kind, 'something')}, not a file", fix=fix)
    return file


def read_bytes(path: Path, fix: str = AGAIN, at_most: int = MOST_BYTES) -> bytes:
    """The content of a file of at most so many bytes. Raises the errors of `opened`."""
    with opened(path, fix) as file:
        try:
            # A read makes room for all bytes that it may return.
            content = file.read(min(os.fstat(file.fileno()).st_size, at_most) + 1)
        except OSError as error:
            raise EdgeTransactError(f"{path} can't be read: {error.strerror}", fix=fix) from error
    if len(content) > at_most:
        raise EdgeTransactError(f"{path} has more than {at_most:,} bytes, which no such file needs", fix=fix)
    return content


def read_text(path: Path, fix: str = AGAIN) -> str:
    """A file's text, which must be UTF-8. Raises the errors of `read_bytes`."""
    content = read_bytes(path, fix)
    try:
        if found := next((name for mark, name in _MARKS.items() if content.startswith(mark)), None):
            raise ValueError(found)
        return content.decode()
    except ValueError as error:
        raise EdgeTransactError(f"{path} is not plain UTF-8: {error}", fix="Convert it to UTF-8.") from error


def parsed(text: str | bytes, where: object, fix: str = AGAIN) -> Any:
    """The value of JSON text from the place `where`; an `EdgeTransactError` for other text, or too deep JSON."""
    from pydantic_core import from_json

    try:
        return from_json(text)
    except ValueError as error:
        raise EdgeTransactError(f"{where} is not JSON: {error}", fix=fix) from error


def read_json(path: Path, fix: str = AGAIN) -> Any:
    """The value in a JSON file. Raises the errors of `read_text` and `parsed`."""
    return parsed(read_text(path, fix), path, fix)


def read_object(path: Path, fix: str = AGAIN, *, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file; an empty one if it is missing and `optional`. Raises the errors of `read_json`."""
    try:
        value = read_json(path, fix)
    except FileNotFoundError:
        if optional:
            return {}
        raise
    if not isinstance(value, dict):
        raise EdgeTransactError(f"{path} is not a JSON object", fix=fix)
    return value


def checked(schema: type[T], value: object, where: object, fix: str = AGAIN, what: str = "") -> T:
    """A value from the place `where` as a pydantic model or another annotation describes it, `what` it should be.

    Raises an `EdgeTransactError` that names the place, the field, its value and what is allowed.
    """
    from pydantic import TypeAdapter, ValidationError
    from pydantic_core import to_json

    try:
        # As JSON, in which lists are tuples, and still no text is a number.
        return TypeAdapter(schema).validate_json(to_json(value, inf_nan_mode="constants"), strict=True)
    except ValidationError as error:
        problem = f"is not {what}" if what else "cannot be read"
        raise EdgeTransactError(f"{where} {problem} ({first_problem(error)})", fix=fix) from error


def read_model(schema: type[T], path: Path, fix: str = AGAIN, what: str = "") -> T:
    """What a JSON file holds, as a schema describes it. Raises the errors of `read_json` and `checked`."""
    return checked(schema, read_json(path, fix), path, fix, what)


def zip_member(
    path: Path, name: str, fix: str = AGAIN, at_most: int = MOST_BYTES, *, of_at_most: int = MOST_ARCHIVE_BYTES
) -> bytes:
    """A file of at most so many bytes out of a ZIP archive of limited size, in memory. Raises as `read_bytes` does."""
    try:
        whole = io.BytesIO(read_bytes(path, fix, of_at_most))
        with zipfile.ZipFile(whole) as archive, archive.open(name) as file:
            content = file.read(at_most + 1)
    except KeyError as error:
        raise EdgeTransactError(f"{path} holds no {name}", fix=fix) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise EdgeTransactError(f"{path} is not a ZIP archive that can be read: {error}", fix=fix) from error
    if len(content) > at_most:
        raise EdgeTransactError(f"{name} in {path} has more than {at_most:,} bytes", fix=fix)
    return content
