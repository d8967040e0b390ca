"""The texts of the studies: speeches of the ``demo`` extra, and two books that Debian packages carry."""

from __future__ import annotations

import subprocess
from pathlib import Path

from edge_transact.errors import EdgeTransactError
from edge_transact.inputs.texts import DOCUMENT_SEPARATOR, strip_html

HANDBOOK = ("debian-handbook", "usr/share/doc/debian-handbook/html/en-US")
"""Only ever evaluated on."""

ANARCHISM = ("anarchism", "usr/share/doc/anarchism/html")
"""Only ever calibrated on."""


def book(package: tuple[str, str], scratch: Path) -> str:
    """The TEXT of a book in a Debian package: its pages in file-name order, joined by a blank line, HTML stripped.

    Raises:
        EdgeTransactError: The package can't be had.
    """
    name, folder = package
    text = scratch / f"{name}.txt"
    if not text.exists():
        scratch.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", "-qq", name], cwd=scratch, check=True)
            subprocess.run(["dpkg", "-x", str(next(scratch.glob(f"{name}_*.deb"))), name], cwd=scratch, check=True)
        except (OSError, subprocess.CalledProcessError, StopIteration) as error:
            raise EdgeTransactError(
                f"Debian's package {name} can't be had: {error}",
                fix=f"Put the book's text into {text} yourself; on Debian: apt-get update.",
            ) from error
        pages = sorted((scratch / name / folder).glob("*.html"))
        text.write_text(DOCUMENT_SEPARATOR.join(strip_html(page.read_text(errors="replace")) for page in pages))
    return str(text)
