"""Reports: figures drawn without a display, and a self-contained HTML page that shows them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_transact.artifacts.templates import template
from edge_transact.errors import EdgeTransactError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
"""Paul Tol's bright scheme, which colour-blind readers can distinguish."""


def require_matplotlib() -> None:
    """Fails before the work if a report can't be drawn after it.

    Raises:
        EdgeTransactError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise EdgeTransactError("a report needs matplotlib", fix="pip install 'edge-transact[plot]'")


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **sharing: Any) -> tuple[Figure, Any]:
    """A figure and its axes: a single one, or an array ``[rows, columns]``.

    Args:
        width: Width of the figure, inches.
        height: Height of the figure, inches.
        rows: Rows of axes.
        columns: Columns of axes.
        sharing: matplotlib's ``sharex`` and ``sharey``.
    """
    # Not pyplot: its figures are global and need a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **sharing)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid if grid.size > 1 else grid[0, 0]


def write_page(directory: Path, name: str, figures: Mapping[str, Figure], **values: object) -> None:
    """Writes ``index.html`` from a template, with the figures inside it and as PNG files next to it.

    Args:
        directory: An existing directory.
        name: The template. Its variable `figures` lists the figures, each with a `name` and base64 `data`.
        figures: File name to figure.
        values: The template's other variables.
    """
    embedded = []
    for file, figure in figures.items():
        data = _png(figure)
        (directory / file).write_bytes(data)
        embedded.append({"name": file, "data": base64.b64encode(data).decode()})
    (directory / "index.html").write_text(template(name).render(figures=embedded, **values))


def script_json(value: object) -> str:
    """JSON that is safe inside a script element: no string can end the element."""
    return json.dumps(value).replace("<", "\\u003c")


def _png(figure: Figure) -> bytes:
    output = io.BytesIO()
    figure.savefig(output, format="png")
    return output.getvalue()
