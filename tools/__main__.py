"""``python -m tools``, or ``make docs``: writes what pages take from the code.

A page marks where: ``<!-- table PACKAGE -->``, ``<!-- api PACKAGE.MODULE.NAME -->``, ``<!-- devices -->``,
``<!-- commands -->``, ``<!-- anywhere -->``, ``<!-- measured -->``, ``<!-- predicted -->`` or ``<!-- published -->``,
and ``<!-- end -->``.
"""

from __future__ import annotations

import re
from pathlib import Path

from tools import api, commands, devices, phones, structure

DOCS = structure.ROOT / "docs"
KINDS = "table|api|devices|commands|anywhere|measured|predicted|published"
BLOCK = re.compile(rf"(<!-- (?P<kind>{KINDS}) ?(?P<argument>[\w.]*) -->\n).*?(?=<!-- end -->)", re.DOTALL)


def outputs() -> dict[Path, str]:
    """Each generated file, and each page with generated blocks, with the text that it should have."""
    texts = {DOCS / "structure.svg": structure.drawing()}
    for page in (DOCS / name for name in ("architecture.md", "api.md", "cli.md", "phones.md", "lab/phone-gpu.md")):
        texts[page] = BLOCK.sub(_filled, page.read_text())
    return texts


def _filled(found: re.Match[str]) -> str:
    match found["kind"]:
        case "table":
            text = structure.table(found["argument"])
        case "api":
            text = api.entry(found["argument"])
        case "devices":
            text = devices.table()
        case "commands":
            text = commands.entries()
        case "measured":
            text = phones.measured()
        case "predicted":
            text = phones.predictions()
        case "published":
            text = phones.published()
        case _:
            text = commands.anywhere()
    return f"{found[1]}\n{text}\n\n"


if __name__ == "__main__":
    for path, text in outputs().items():
        path.write_text(text)
