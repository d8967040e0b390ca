"""``python -m tools``, or ``make docs``: writes what pages take from the code.

A page marks where: ``<!-- table PACKAGE -->`` or ``<!-- api PACKAGE.MODULE.NAME -->``, and ``<!-- end -->``.
"""

from __future__ import annotations

import re
from pathlib import Path

from tools import api, structure

DOCS = structure.ROOT / "docs"
BLOCK = re.compile(r"(<!-- (?P<kind>table|api) ?(?P<argument>[\w.]*) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def outputs() -> dict[Path, str]:
    """Each generated file, and each page with generated blocks, with the text that it should have."""
    texts = {DOCS / "structure.svg": structure.drawing()}
    for page in (DOCS / "architecture.md", DOCS / "api.md"):
        texts[page] = BLOCK.sub(_filled, page.read_text())
    return texts


def _filled(match: re.Match[str]) -> str:
    text = structure.table(match["argument"]) if match["kind"] == "table" else api.entry(match["argument"])
    return f"{match[1]}\n{text}\n\n"


if __name__ == "__main__":
    for path, text in outputs().items():
        path.write_text(text)
