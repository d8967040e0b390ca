"""Report pages: self-contained HTML from one template, and the pictures beside it as SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from edge_transact.artifacts.charts import Picture
from edge_transact.artifacts.templates import template


@dataclass(frozen=True)
class Origin:
    """How the figures of a page came about.

    Attributes:
        command: The line that makes them again.
        machine: Where they were measured.
        versions: Package to version.
        options: Every option that was in force: its flag, its value, and what it is.
        date: When, in ISO 8601.
    """

    command: str
    machine: str
    versions: Mapping[str, str]
    options: Sequence[Sequence[str]] = ()
    date: str = field(default_factory=lambda: date.today().isoformat())


def write_page(
    directory: Path,
    name: str,
    answer: str,
    subject: str,
    pictures: Sequence[Picture],
    origin: Origin,
    **values: object,
) -> None:
    """Writes ``index.html``, which holds the pictures, and each of them as an SVG file.

    Args:
        directory: An existing directory.
        name: A template that extends ``page.html.j2``.
        answer: The first line: what was found, in a few words.
        subject: What the page is about.
        pictures: In the order of the page.
        origin: How the figures came about.
        values: The template's other variables.
    """
    page = template(name).render(answer=answer, subject=subject, pictures=pictures, origin=origin, **values)
    (directory / "index.html").write_text(page)
    for picture in pictures:
        (directory / f"{picture.name}.svg").write_text(picture.file())


def change(before: float, after: float) -> str:
    """How far `after` is from `before`, in percent with a sign: ``-23 %``."""
    percent = round(100 * (after / before - 1))
    return f"{'-' if percent < 0 else '+'}{abs(percent)} %" if percent else "0 %"


def megabytes(nbytes: float) -> str:
    """A size as people write it: ``58.6 MB``."""
    return f"{nbytes / 1e6:,.1f} MB" if nbytes < 1e9 else f"{nbytes / 1e9:,.2f} GB"
