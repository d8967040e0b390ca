"""A TEXT in pieces that are read one at a time and in any order, so that a corpus of any size needs little memory.

Text files are cut where a line begins, and where lines are too long, between words or characters; a row of JSON lines
belongs to the piece in which it begins. All pieces together hold the text exactly once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

from edge_transact.artifacts.digests import sha256, text_digest
from edge_transact.errors import EdgeTransactError
from edge_transact.inputs.demo_texts import Purpose
from edge_transact.inputs.rows import (
    MOST_IN_LINE,
    Row,
    parquet_file,
    plain,
    read_files,
    read_parquet,
    reading,
    rows_of_lines,
)
from edge_transact.inputs.texts import files_of, read_rows

PIECE_BYTES = 1 << 18
"""Bytes of a piece of a large text."""

LEAST_PIECE_BYTES = 1 << 12

PIECES = 64
"""The number of pieces that a small text is cut into, unless they would be shorter than the least.

A row group of Parquet isn't cut into more, since each of its pieces is read from the group's beginning.
"""

CUT_BYTES = 1 << 16
"""A line that goes on for longer is cut between words."""

DIGESTED_BYTES = 1 << 26
"""Larger files are identified by their size and time of change rather than by their content."""


@dataclass(frozen=True)
class Part:
    """A part of a document longer than a piece, and whether it begins and ends the document. `text` may be blank."""

    text: str
    begins: bool
    ends: bool


@dataclass(frozen=True)
class HeldPiece:
    held: tuple[Row, ...]

    def rows(self) -> Iterator[Row]:
        return iter(self.held)


@dataclass(frozen=True)
class FilePiece:
    """A part of a file that had `size` bytes: a range of bytes, or of rows in a row group of Parquet."""

    file: Path
    size: int
    start: int
    stop: int
    group: int = 0

    def rows(self) -> Iterator[Row | Part]:
        """The rows that aren't blank, and parts of documents; an `EdgeTransactError` if the file has changed."""
        with reading(self.file):
            for row in self._all():
                if isinstance(row, Part):
                    yield row
                elif plain(row).strip():
                    yield from _in_parts(row) if isinstance(row, str) and len(row) > PIECE_BYTES else [row]

    def _all(self) -> Iterator[Row | Part]:
        if (size := self.file.stat().st_size) != self.size:
            raise EdgeTransactError(
                f"{self.file} has changed while it was read: {size} bytes, {self.size} before",
                fix="Leave a text as it is while a run reads it, and start again with --fresh.",
            )
        suffix = self.file.suffix.lower()
        if suffix == ".parquet":
            return read_parquet(self.file, self.group, range(self.start, self.stop))
        if suffix in (".html", ".htm"):
            return read_files([self.file])
        if suffix != ".jsonl":
            return self._text()
        after = f", after byte {self.start}" if self.start else ""
        return rows_of_lines(self._lines(), f"{self.file}{after}")

    def _text(self) -> Iterator[Row | Part]:
        """The document, or the part of it that is in the range."""
        with self.file.open("rb") as stream:
            start, stop = (_cut(stream, position, self.size) for position in (self.start, self.stop))
            stream.seek(start)
            text = stream.read(stop - start).decode("utf-8")
        begins, ends = start == 0, stop == self.size
        if begins and ends:
            yield text
        elif text:
            yield Part(text, begins, ends)

    def _lines(self) -> Iterator[bytes]:
        with self.file.open("rb") as stream:
            if self.start:
                stream.seek(self.start - 1)
                stream.readline()
            while stream.tell() < self.stop and (line := stream.readline(MOST_IN_LINE)):
                yield line


def _in_parts(document: str) -> Iterator[Part]:
    """A document that is read at once, cut between words into parts of about a piece."""
    cuts = [0]
    while len(document) - cuts[-1] > PIECE_BYTES:
        after = cuts[-1] + PIECE_BYTES
        cuts.append(document.find(" ", after, after + CUT_BYTES) + 1 or after)
    for start, stop in pairwise([*cuts, len(document)]):
        yield Part(document[start:stop], start == 0, stop == len(document))


def _cut(stream: BinaryIO, position: int, size: int) -> int:
    """Where text is cut near a position: at the next line, word or character."""
    if position in (0, size):
        return position
    stream.seek(position - 1)
    window = stream.read(CUT_BYTES)
    for separator in (b"\n", b" "):
        if (found := window.find(separator)) >= 0:
            return position + found
    # The bytes of a character after its first one are 10xxxxxx.
    return position + next((at for at, byte in enumerate(window[1:]) if byte & 0xC0 != 0x80), 0)


class Pieces(NamedTuple):
    """A TEXT in pieces, in order, a digest that identifies the content (see `DIGESTED_BYTES`), and its bytes."""

    pieces: Sequence[HeldPiece | FilePiece]
    digest: str
    nbytes: int


def pieces_of(text: str, purpose: Purpose) -> Pieces:
    """Cuts a TEXT into pieces, reading no more of large files than where rows are. Raises as `read_rows` does."""
    if text.startswith("demo:"):
        rows = read_rows(text, purpose)
        nbytes = sum(len(plain(row).encode()) for row in rows)
        digest = text_digest("\0".join(map(plain, rows)))
        return Pieces(list(_grouped(rows, _piece_bytes(nbytes))), digest, nbytes)
    files = files_of(text, purpose)
    sizes = [file.stat().st_size for file in files]
    length = _piece_bytes(sum(sizes))
    pieces: list[FilePiece] = []
    for file, size in zip(files, sizes, strict=True):
        suffix = file.suffix.lower()
        if suffix == ".parquet":
            pieces += _row_ranges(file, size, length)
        elif suffix in (".html", ".htm"):
            pieces.append(FilePiece(file, size, 0, size))
        else:
            starts = range(0, size, length)
            pieces += [FilePiece(file, size, start, min(start + length, size)) for start in starts]
    if not pieces:
        raise EdgeTransactError(f"{text} holds no text", fix="Name a text that isn't empty.")
    identity = [
        [file.name, sha256(file) if size <= DIGESTED_BYTES else f"{size} {file.stat().st_mtime_ns}"]
        for file, size in zip(files, sizes, strict=True)
    ]
    return Pieces(pieces, text_digest(json.dumps(identity)), sum(sizes))


def _row_ranges(file: Path, size: int, length: int) -> Iterator[FilePiece]:
    """The row groups of a Parquet file in pieces of about `length` bytes before compression, at most `PIECES` each."""
    metadata = parquet_file(file).metadata
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        count = max(1, min(PIECES, group.total_byte_size // length, group.num_rows))
        cuts = (group.num_rows * part // count for part in range(count + 1))
        yield from (FilePiece(file, size, start, stop, number) for start, stop in pairwise(cuts))


def _piece_bytes(nbytes: int) -> int:
    return min(PIECE_BYTES, max(LEAST_PIECE_BYTES, nbytes // PIECES))


def _grouped(rows: Sequence[Row], length: int) -> Iterator[HeldPiece]:
    """Rows in memory as pieces of about `length` bytes."""
    held: list[Row] = []
    nbytes = 0
    for row in rows:
        held.append(row)
        nbytes += len(plain(row).encode())
        if nbytes >= length:
            yield HeldPiece(tuple(held))
            held, nbytes = [], 0
    if held:
        yield HeldPiece(tuple(held))
