"""TEXT: files, directories, hub data sets and demo texts become documents.

Documents are in file-name order and joined by a blank line, and HTML is stripped, so that perplexities are comparable.
"""

from __future__ import annotations

import logging
from pathlib import Path

from edge_transact.errors import EdgeTransactError
from edge_transact.hub.download import HUB_ID, download
from edge_transact.inputs.demo_texts import DEMO_TEXTS, Purpose, demo_rows
from edge_transact.inputs.names import suggestion
from edge_transact.inputs.rows import SUFFIXES, Row, plain, read_files
from edge_transact.reading import user_path

logger = logging.getLogger(__name__)

SPLITS: dict[Purpose, tuple[str, ...]] = {"calibration": ("train",), "evaluation": ("test", "validation", "valid")}
"""Which files of a hub data set serve a purpose: those with the first of these words that any path has, else all."""

DOCUMENT_SEPARATOR = "\n\n"

WHOLE, NEEDED = 1 << 23, 1 << 21
"""Bytes of a calibration text that is read whole, and characters that are read of a larger one, or to evaluate, even if
a few windows are wanted."""


SURELY = 64
"""Characters that surely hold a token."""


def needed_characters(tokens: int) -> int:
    """As many characters as surely hold so many tokens: more of a text needn't be read."""
    return max(NEEDED, SURELY * tokens)


def is_whole(nbytes: int, tokens: int) -> bool:
    """Whether a calibration text of so many bytes is read whole for so many tokens."""
    return nbytes <= max(WHOLE, needed_characters(tokens))


def read_text(text: str, purpose: Purpose, tokens: int | None = None) -> str:
    """All documents of a TEXT, joined; of a large one, no more than `needed_characters` for `tokens`, if given."""
    at_most = -1 if tokens is None else needed_characters(tokens)
    joined = DOCUMENT_SEPARATOR.join(map(plain, read_rows(text, purpose, at_most)))
    return joined if tokens is None else joined[:at_most]


def read_rows(text: str, purpose: Purpose, at_most: int = -1) -> list[Row]:
    """The documents and chats of a TEXT that aren't blank: the first that have `at_most` characters, if it isn't -1.

    A document is a file, or a row of JSON lines or Parquet: its ``text`` column, or its only column of strings. A row
    with ``messages`` is a chat. `purpose` selects the part of a demo text, and the splits of a data set. An
    `EdgeTransactError` names file and line of what can't be read, and a text that is empty.
    """
    found = demo_rows(text, purpose) if text.startswith("demo:") else read_files(files_of(text, purpose), at_most)
    rows, characters = [], 0
    for row in found:
        if plain(row).strip():
            # Of a document in one line or page, too, no more is kept than is wanted.
            rows.append(row[: at_most - characters] if isinstance(row, str) and at_most >= 0 else row)
            characters += len(plain(row))
        if 0 <= at_most <= characters:
            break
    if not rows:
        raise EdgeTransactError(f"{text} holds no text", fix="Name a text that isn't empty.")
    logger.debug(f"{text}, for {purpose}: {len(rows):,} documents of {characters:,} characters")
    return rows


def files_of(text: str, purpose: Purpose) -> list[Path]:
    """The files of a TEXT that isn't a demo text, in order of names; an `EdgeTransactError` if there is none."""
    path = user_path(text)
    if path.is_dir():
        return _text_files(path, text)
    if path.is_file():
        return [path]
    if HUB_ID.fullmatch(text) and path.suffix.lower() not in SUFFIXES and not path.parent.is_dir():
        fix = "Check the name, or use a local file or demo:sotu."
        directory = download(text, "dataset", [f"*{suffix}" for suffix in SUFFIXES], fix)
        return _split(directory, _text_files(directory, text), purpose)
    raise EdgeTransactError(
        f"{text} does not exist",
        fix=suggestion(text, DEMO_TEXTS)
        or f"Name a {', '.join(SUFFIXES)} file, a directory of them, a hub data set (org/name) or demo:sotu.",
    )


def _text_files(directory: Path, text: str) -> list[Path]:
    files = sorted(file for file in directory.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    # The card of a data set isn't part of its text.
    files = [file for file in files if file.name != "README.md"]
    if not files:
        raise EdgeTransactError(f"{text} has no {', '.join(SUFFIXES)} files", fix="Give a directory that holds some.")
    return files


def _split(directory: Path, files: list[Path], purpose: Purpose) -> list[Path]:
    for word in SPLITS[purpose]:
        chosen = [file for file in files if word in str(file.relative_to(directory)).lower()]
        if chosen:
            return chosen
    return files
