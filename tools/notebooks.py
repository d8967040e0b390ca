"""``python -m tools.notebooks``: executes the notebooks of ``examples/`` and keeps their outputs.

They run in a directory of their own, so that what they write is gone afterwards.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

EXAMPLES = Path(__file__).parents[1] / "examples"
WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_TIMEOUT_S = 600


def executed(notebook: NotebookNode, directory: Path, cell_timeout_s: int = CELL_TIMEOUT_S) -> NotebookNode:
    """The notebook with its outputs.

    Args:
        notebook: The notebook.
        directory: The working directory of its kernel.
        cell_timeout_s: The longest time for a cell. Now and then ZeroMQ doesn't wake the client when a cell has ended;
            then it is this long until the client looks.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
        nbclient.exceptions.CellTimeoutError: A cell took longer than `cell_timeout_s`.
    """
    return NotebookClient(
        notebook,
        timeout=cell_timeout_s,
        record_timing=False,
        coalesce_streams=True,
        # Nobody looks for these cells in the history of their own.
        extra_arguments=["--HistoryManager.enabled=False", "--log-level=ERROR"],
        resources={"metadata": {"path": str(directory)}},
    ).execute()


def without_bars(notebook: NotebookNode) -> NotebookNode:
    """The notebook as it is kept: bars are gone when their step has ended, and a machine's version says nothing."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
    return notebook


def _is_bar(output: NotebookNode) -> bool:
    """Whether it's a bar, or the nothing that rich leaves in its place."""
    data = output.get("data", {})
    return WIDGET in data or data.get("text/plain") == ""


def main() -> None:
    """Execute all notebooks."""
    for path in sorted(EXAMPLES.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as directory:
            notebook = nbformat.read(path, as_version=4)
            nbformat.write(without_bars(executed(notebook, Path(directory))), path)


if __name__ == "__main__":
    main()
