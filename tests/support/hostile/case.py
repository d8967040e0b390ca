"""A case of hostile input, and the damages that files of any kind can have."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Harm = Callable[[Path], object]
"""Changes what was laid out in a directory."""


@dataclass(frozen=True)
class Case:
    """A command on damaged input.

    Attributes:
        kind: The kind of file, or what else is hostile, such as ``options``.
        damage: What is wrong with it.
        command: The words after ``edge-transact``; paths are relative to the directory that `harm` gets.
        says: A regular expression that stderr matches if the command fails. Empty: it must work.
        may_work: Whether the command may also work, because it doesn't need what is damaged.
        needs: Names in the base that are copied beside each other: ``model``, ``dist`` ...
        replaces: Paths that the command may change or write although it fails.
        answers: What a false adb server does: one of `worker.ANSWERS`.
    """

    kind: str
    damage: str
    command: tuple[str, ...]
    says: str
    harm: Harm = lambda _: None
    may_work: bool = False
    needs: tuple[str, ...] = ("model",)
    replaces: tuple[str, ...] = ()
    answers: str = ""

    def __str__(self) -> str:
        words = " ".join(word if len(word) < 60 else f"{word[:50]}...{len(word)}" for word in self.command)
        return f"[{self.kind}] {self.damage}: edge-transact {words!r}"


DEEP = "[" * 100_000 + "]" * 100_000
VALUES = {
    "missing": "",
    "null": "null",
    "true": "true",
    "text": '"text"',
    "empty text": '""',
    "-1": "-1",
    "0": "0",
    "1.5": "1.5",
    "10^9": str(10**9),
    "10^400": "1" + "0" * 400,
    "10^5000": "1" + "0" * 5000,
    "NaN": "NaN",
    "-Infinity": "-Infinity",
    "empty list": "[]",
    "list": '[1, "a", null]',
    "map": '{"a": {"b": -1}}',
    "nested": DEEP,
    "lone surrogate": '"\\ud800"',
    "NUL": '"a\\u0000b"',
}
"""Values that a JSON field doesn't expect, as JSON."""

_MARK = "@@hostile@@"


def put(path: Path, content: bytes | str) -> None:
    """Replaces a file."""
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def set_json(path: Path, keys: Sequence[str | int], raw: str) -> None:
    """Sets a value inside a JSON file to JSON text, or removes it if that is empty. Intermediate maps are made."""
    document = json.loads(path.read_text())
    inner = document
    for key in keys[:-1]:
        if isinstance(inner, dict) and inner.get(key) is None:
            inner[key] = {}
        inner = inner[key] if isinstance(inner, dict) else inner[int(key)]
    if raw:
        inner[keys[-1]] = _MARK
    elif isinstance(inner, list) or keys[-1] in inner:
        del inner[keys[-1]]
    put(path, json.dumps(document).replace(f'"{_MARK}"', raw))


def paths_in(document: Any, most: int = 3) -> Iterator[tuple[str | int, ...]]:
    """The places of all values in a JSON document, `most` of each list and of maps with many entries."""
    if isinstance(document, dict):
        entries = list(document.items())
        entries = entries[:most] if len(entries) > 40 else entries
    else:
        entries = list(enumerate(document))[:most] if isinstance(document, list) else []
    for key, value in entries:
        yield (key,)
        for inner in paths_in(value, most):
            yield (key, *inner)


def _cut(share: float) -> Callable[[Path], None]:
    return lambda path: put(path, path.read_bytes()[: int(path.stat().st_size * share)])


def _flip(share: float) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int((len(content) - 1) * share)] ^= 0x10
        put(path, bytes(content))

    return flip


def _sparse(path: Path) -> None:
    put(path, b"")
    os.truncate(path, 5 << 30)


def _link(target: str) -> Callable[[Path], None]:
    def link(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return link


def _special(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def special(path: Path) -> None:
        path.unlink()
        make(path)

    return special


def _socket(path: Path) -> None:
    where = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)
    os.chdir(where)


def _rewritten(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: put(path, change(path.read_bytes()))


OF_ANY_FILE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda path: put(path, b""),
    "an eighth": _cut(1 / 8),
    "half": _cut(1 / 2),
    "all but a byte": lambda path: put(path, path.read_bytes()[:-1]),
    "flipped at its start": _flip(0),
    "flipped inside": _flip(0.43),
    "a byte more": _rewritten(lambda content: content + b"\xff"),
    "twice": _rewritten(lambda content: content * 2),
    "NULs": _rewritten(lambda content: bytes(len(content))),
    "noise": _rewritten(lambda content: bytes(hash((i, len(content))) % 251 for i in range(4096))),
    "5 GB of nothing": _sparse,
    "a directory": _special(Path.mkdir),
    "a FIFO": _special(os.mkfifo),
    "a socket": _special(_socket),
    "a link to /dev/zero": _link("/dev/zero"),
    "a link to itself": lambda path: _link(path.name)(path),
    "a link to nothing": _link("nowhere"),
}
"""Damages of any file."""

OF_TEXT: dict[str, Callable[[Path], object]] = {
    "UTF-16": _rewritten(lambda content: content.decode(errors="replace").encode("utf-16")),
    "a byte order mark": _rewritten(lambda content: b"\xef\xbb\xbf" + content),
    "Latin-1": _rewritten(lambda content: content[:1] + b"\xe9\xe8" + content[1:]),
}
OF_JSON: dict[str, Callable[[Path], object]] = {
    **OF_TEXT,
    "a list": lambda path: put(path, "[]"),
    "an empty map": lambda path: put(path, "{}"),
    "a text": lambda path: put(path, '"text"'),
    "a number": lambda path: put(path, "7"),
    "null": lambda path: put(path, "null"),
    "nested": lambda path: put(path, DEEP),
    "nested maps": lambda path: put(path, '{"a":' * 100_000 + "1" + "}" * 100_000),
    "a number of 5000 digits": lambda path: put(path, '{"a": 1' + "0" * 5000 + "}"),
}


def on(name: str, damage: Callable[[Path], object]) -> Harm:
    """The damage of a file below the directory."""
    return lambda work: damage(work / name)


def naming(*names: str) -> str:
    """A pattern that any of these texts matches."""
    return "|".join(map(re.escape, names))


def lay_out(base: Path, names: Sequence[str], work: Path) -> None:
    """Copies files and directories of the base."""
    for name in names:
        source = base / name
        if source.is_dir():
            shutil.copytree(source, work / name)
        else:
            shutil.copy(source, work / name)
