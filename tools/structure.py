"""The structure of the package, for ``docs/architecture.md``: tables of its folders, and a drawing of their layers.

The layers are import-linter's, in ``pyproject.toml``. What a folder holds is the first sentence of its docstring.
"""

from __future__ import annotations

import ast
import re
import tomllib
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "edge_transact"

WIDTH, MARGIN, GAP, PADDING = 960, 24, 12, 10
LINE, NAME_SIZE, TEXT_SIZE = 15, 13, 11
"""Of the drawing, in px."""


def layers(package: str = PACKAGE) -> list[list[str]]:
    """The names of the folders and modules in each layer of a package, top first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = [each for each in settings["contracts"] if each["containers"] == [package]]
    return [re.split(r" [|:] ", layer) for layer in contract["layers"]]


def holds(name: str, package: str = PACKAGE) -> str:
    """The first sentence of the docstring of a folder or module."""
    folder = _directory(package) / name
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return re.split(r"(?<=\.)\s", " ".join(docstring.split()) + " ")[0]


def table(package: str = PACKAGE) -> str:
    """A row for each folder or module of a package, bottom layer first."""
    order = [name for layer in reversed(layers(package)) for name in layer]
    rows = ["| folder or module | holds |", "|---|---|"]
    for name in order:
        rows.append(f"| `{_shown(name, package)}` | {holds(name, package).replace('``', '`')} |")
    return "\n".join(rows)


def text_width(text: str, font: FontProperties) -> float:
    """Width of a line of text, in the unit of the font's size.

    `TextPath.get_extents` finds the same, but slowly: it searches curves for their extremes. A font has points there.
    """
    path = TextPath((0, 0), text, prop=font)
    return float(np.ptp(path.vertices[path.codes != path.CLOSEPOLY, 0]))


def drawing() -> str:
    """An SVG of the layers: a row of boxes for each, and the rule that imports point down."""
    font = FontProperties(family="DejaVu Sans", size=TEXT_SIZE)

    def wrapped(text: str, width: float) -> list[str]:
        lines = [""]
        for word in text.replace("`", "").split():
            longer = f"{lines[-1]} {word}".strip()
            if text_width(longer, font) <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines

    parts, top = [], MARGIN
    for layer in layers():
        width = (WIDTH - 2 * MARGIN - 20 - GAP * (len(layer) - 1)) / len(layer)
        texts = [wrapped(holds(name), width - 2 * PADDING) for name in layer]
        height = 2 * PADDING + LINE * (1 + max(map(len, texts)))
        for index, (name, lines) in enumerate(zip(layer, texts, strict=True)):
            left = MARGIN + 20 + index * (width + GAP)
            parts.append(f'<rect class="box" x="{left:g}" y="{top}" width="{width:g}" height="{height}" rx="5"/>')
            baseline = top + PADDING + NAME_SIZE - 2
            parts.append(f'<text class="b" x="{left + PADDING:g}" y="{baseline}">{_shown(name)}</text>')
            for number, line in enumerate(lines, 1):
                y = baseline + number * LINE
                parts.append(f'<text class="s" x="{left + PADDING:g}" y="{y}">{escape(line)}</text>')
        top += height + GAP
    middle = (MARGIN + top - GAP) // 2
    arrow = (
        f'<path class="a" d="M{MARGIN + 6} {MARGIN}V{top - GAP}"/>'
        f'<text class="s m" transform="translate({MARGIN} {middle}) rotate(-90)">imports</text>'
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top - GAP + MARGIN}"'
            f' font-family="DejaVu Sans, Verdana, sans-serif" font-size="{NAME_SIZE}">',
            "  <title>Layers of edge_transact: a folder imports only what is below it</title>",
            "  <style>.box { fill: #f6f8fa; stroke: #57606a } .b { fill: #1f2328; font-weight: 600 }"
            f" .s {{ fill: #424a53; font-size: {TEXT_SIZE}px }} .m {{ text-anchor: middle }}"
            " .a { stroke: #57606a; stroke-width: 1.5; fill: none; marker-end: url(#h) }</style>",
            '  <defs><marker id="h" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0 8 4 0 8z" fill="#57606a"/></marker></defs>',
            '  <rect width="100%" height="100%" fill="#ffffff"/>',
            *(f"  {part}" for part in [arrow, *parts]),
            "</svg>\n",
        ]
    )


def _directory(package: str) -> Path:
    return ROOT.joinpath(*package.split("."))


def _shown(name: str, package: str = PACKAGE) -> str:
    return f"{name}/" if (_directory(package) / name).is_dir() else f"{name}.py"
