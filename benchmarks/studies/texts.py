"""The texts of the studies: speeches of the ``demo`` extra, and books that packages of Debian 13 carry."""

from __future__ import annotations

import subprocess
from pathlib import Path

from edge_transact.errors import EdgeTransactError
from edge_transact.inputs.texts import DOCUMENT_SEPARATOR, strip_html

HANDBOOK = ("debian-handbook", "usr/share/doc/debian-handbook/html/en-US/*.html")
"""Only ever evaluated on."""

ANARCHISM = ("anarchism", "usr/share/doc/anarchism/html/*.html")
MANUAL = ("python3.13-doc", "usr/share/doc/python3.13/html/[fht]*/*.html")
"""Only ever calibrated on: essays, and of Python's manual the faq, the howtos and the tutorial."""


def book(package: tuple[str, str], scratch: Path) -> str:
    """The TEXT of a book: a package and its pages, which are joined in the order of their names, HTML stripped.

    Raises:
        EdgeTransactError: The package can't be had.
    """
    name, pages = package
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
        files = sorted((scratch / name).glob(pages))
        text.write_text(DOCUMENT_SEPARATOR.join(strip_html(file.read_text(errors="replace")) for file in files))
    return str(text)
