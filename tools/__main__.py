"""``python -m tools``, or ``make docs``: writes what pages take from the code.

A page marks where: ``<!-- table PACKAGE -->``, ``<!-- api PACKAGE.MODULE.NAME -->`` or ``<!-- devices -->``, and
``<!-- end -->``.
"""

from __future__ import annotations

import re
from pathlib import Path

from tools import api, devices, structure

DOCS = structure.ROOT / "docs"
BLOCK = re.compile(r"(<!-- (?P<kind>table|api|devices) ?(?P<argument>[\w.]*) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def outputs() -> dict[Path, str]:
    """Each generated file, and each page with generated blocks, with the text that it should have."""
    texts = {DOCS / "structure.svg": structure.drawing()}
    for page in (DOCS / name for name in ("architecture.md", "api.md", "phone-gpu.md")):
        texts[page] = BLOCK.sub(_filled, page.read_text())
    return texts


def _filled(match: re.Match[str]) -> str:
    if match["kind"] == "devices":
        text = devices.table()
    else:
        text = structure.table(match["argument"]) if match["kind"] == "table" else api.entry(match["argument"])
    return f"{match[1]}\n{text}\n\n"


if __name__ == "__main__":
    for path, text in outputs().items():
        path.write_text(text)
