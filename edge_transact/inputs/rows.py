"""Rows of text files: a document or a chat each, read one at a time.

A row of JSON lines or Parquet is a chat if it has ``messages``, a list of ``{"role": ..., "content": ...}``. Otherwise
it is the document in its column ``text``, or in its only column of strings.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edge_transact.errors import EdgeTransactError
from edge_transact.inputs.html import strip_html
from edge_transact.reading import opened, parsed, read_bytes

SUFFIXES = (".txt", ".md", ".html", ".htm", ".jsonl", ".parquet")

MESSAGES, TEXT = "messages", "text"

MOST_IN_LINE, MOST_IN_PAGE = 1 << 26, 1 << 24
"""Bytes that are read at once: of JSON, and of HTML, of which a megabyte of tags takes a second."""

BATCH_ROWS = 16
"""Rows of Parquet that are decoded at once. More are hardly faster, and a dictionary can repeat a long text in each."""


@dataclass(frozen=True)
class Chat:
    """Roles (``system``, ``user`` and ``assistant``) and contents of a conversation, and its place for errors."""

    turns: tuple[tuple[str, str], ...]
    where: str = field(compare=False)

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in self.turns]

    def plain(self) -> str:
        """The chat as plain text, where there is no chat template."""
        return "\n\n".join(f"{role}: {content}" for role, content in self.turns)


Row = str | Chat


def plain(row: Row) -> str:
    return row if isinstance(row, str) else row.plain()


def read_files(files: Iterable[Path], at_most: int = -1) -> Iterator[Row]:
    """The rows of all files, in order; a file that isn't JSON lines or Parquet is one row.

    Of a text file, no more than `at_most` characters are read, if that isn't -1. Errors name the file, and the line.
    """
    for file in files:
        suffix = file.suffix.lower()
        with reading(file):
            if suffix == ".jsonl":
                with opened(file) as stream:
                    yield from rows_of_lines(iter(partial(stream.readline, MOST_IN_LINE), b""), str(file))
            elif suffix == ".parquet":
                yield from read_parquet(file)
            elif suffix in (".html", ".htm"):
                yield strip_html(read_bytes(file, "Write its text into several files.", MOST_IN_PAGE).decode())
            else:
                with io.TextIOWrapper(opened(file), encoding="utf-8") as text:
                    yield text.read(min(at_most, file.stat().st_size))  # which makes room for all that it may return


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Raises an `EdgeTransactError` for a file in another encoding, or that can't be read."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise EdgeTransactError(f"{file} is not UTF-8: {error}", fix="Convert it to UTF-8.") from error
    except OSError as error:
        fix = "Check that it is there, and its permissions."
        raise EdgeTransactError(f"{file} can't be read: {error}", fix=fix) from error


def rows_of_lines(lines: Iterable[bytes], place: str) -> Iterator[Row]:
    """The rows of JSON lines, of which at most `MOST_IN_LINE` was read, but blank ones; errors name place and line."""
    for number, line in enumerate(lines, start=1):
        where = f"{place}, line {number}"
        if len(line) == MOST_IN_LINE:
            what = f"{where} has {MOST_IN_LINE:,} bytes or more"
            raise EdgeTransactError(what, fix="Write one document per line.")
        if not line.strip():
            continue
        row = parsed(line.decode("utf-8"), where, "Write one object per line.")
        if isinstance(row, str):
            yield row
            continue
        if not isinstance(row, dict):
            raise EdgeTransactError(f"{where} is neither an object nor a string", fix="Write one object per line.")
        if MESSAGES in row:
            yield _chat(row[MESSAGES], where)
        elif TEXT not in row or row[TEXT] is not None:
            strings = [key for key, value in row.items() if isinstance(value, str)]
            yield row[_text_column(strings, list(row), where)]


def read_parquet(file: Path, group: int | None = None, rows: range | None = None) -> Iterator[Row]:
    """The rows of a Parquet file, or those of these numbers, from 0, in a row group; rows without text are skipped."""
    table = parquet_file(file)
    arrow, schema = _arrow(file)[0], table.schema_arrow
    if MESSAGES in schema.names:
        column = MESSAGES
    else:
        is_string = (arrow.types.is_string, arrow.types.is_large_string)
        strings = [field.name for field in schema if any(check(field.type) for check in is_string)]
        column = _text_column(strings, schema.names, str(file))
    groups, place = (None, str(file)) if group is None else ([group], f"{file}, row group {group}")
    wanted = range(table.metadata.num_rows) if rows is None else rows
    first = 0
    for batch in table.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=[column]):
        if first >= wanted.stop:
            return
        skipped = max(0, wanted.start - first)
        values = batch.column(0)[skipped : wanted.stop - first].to_pylist()
        for number, value in enumerate(values, start=first + skipped):
            if value is not None:
                yield _chat(value, f"{place}, row {number}") if column == MESSAGES else value
        first += len(batch)


def parquet_file(file: Path) -> Any:
    """``pyarrow.parquet.ParquetFile``; an `EdgeTransactError` if pyarrow is missing, or it isn't a Parquet file."""
    arrow, parquet = _arrow(file)
    try:
        return parquet.ParquetFile(file)
    except arrow.ArrowException as error:
        raise EdgeTransactError(f"{file} is not a Parquet file: {error}", fix="Download it again.") from error


def _arrow(file: Path) -> tuple[Any, Any]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise EdgeTransactError(
            f"{file}: reading Parquet needs pyarrow", fix="pip install 'edge-transact[parquet]'"
        ) from error
    return arrow, parquet


def _chat(messages: object, where: str) -> Chat:
    turns = []
    for message in messages if isinstance(messages, list) else [None]:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise EdgeTransactError(
                f"{where}: messages are not a list of objects with role and content",
                fix='Write them as [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}].',
            )
        turns.append((role, content))
    return Chat(tuple(turns), where)


def _text_column(strings: Sequence[str], columns: Sequence[str], where: str) -> str:
    if TEXT in strings:
        return TEXT
    if len(strings) != 1:
        raise EdgeTransactError(
            f"{where} has no column 'text' and {len(strings)} columns of strings (columns: {', '.join(columns)})",
            fix="Name the column with the text 'text', or write chats as 'messages'.",
        )
    return strings[0]
