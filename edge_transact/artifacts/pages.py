"""What reports share: figures drawn without a display, and one HTML page that holds them and needs nothing else."""

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
"""Paul Tol's bright scheme: told apart by colour-blind readers too."""


def require_matplotlib() -> None:
    """Said before the work, not after it.

    Raises:
        EdgeTransactError: It is not installed.
    """
    if find_spec("matplotlib") is None:
        raise EdgeTransactError("a report needs matplotlib", fix="pip install 'edge-transact[plot]'")


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **sharing: Any) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes: one, or an array of rows of them.

    Args:
        width, height: Inches.
        rows, columns: Of axes.
        sharing: matplotlib's ``sharex`` and ``sharey``.
    """
    # No pyplot: its figures are global, and would want a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **sharing)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid if grid.size > 1 else grid[0, 0]


def write_page(directory: Path, name: str, figures: Mapping[str, Figure], **values: Any) -> None:
    """Writes ``index.html`` from a template, and the figures as PNGs beside it and inside it.

    Args:
        directory: Exists.
        name: The template; it finds the figures in `figures`, each with a `name` and, as base64, its `data`.
        figures: By file name.
        values: What else the template wants.
    """
    embedded = []
    for file, figure in figures.items():
        data = _png(figure)
        (directory / file).write_bytes(data)
        embedded.append({"name": file, "data": base64.b64encode(data).decode()})
    (directory / "index.html").write_text(template(name).render(figures=embedded, **values))


def script_json(value: Any) -> str:
    """JSON that may stand inside a script element, whatever a model is called."""
    return json.dumps(value).replace("<", "\\u003c")


def _png(figure: Figure) -> bytes:
    output = io.BytesIO()
    figure.savefig(output, format="png")
    return output.getvalue()
