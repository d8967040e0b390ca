"""The notebook of ``examples/`` runs from its first cell to its last, shows what it says, and was kept as it ran."""

import nbformat
import pytest

from tests.support.patience import HANG_S
from tools.notebooks import EXAMPLES, WIDGET, executed, without_bars

NOTEBOOK = EXAMPLES / "checkpoint_to_tokens.ipynb"
SMOLLM2, TINY = "demo:smollm2", "demo:tiny"
LAYERS = {SMOLLM2: 30, TINY: 4}


def outputs(notebook: nbformat.NotebookNode, cell: str) -> list[nbformat.NotebookNode]:
    (found,) = [each for each in notebook.cells if each.id == cell]
    return found.outputs


def shown(notebook: nbformat.NotebookNode, cell: str, kind: str) -> str:
    return "".join(output.data.get(kind, "") for output in outputs(notebook, cell) if "data" in output)


def printed(notebook: nbformat.NotebookNode, cell: str) -> str:
    return "".join(output.text for output in outputs(notebook, cell) if output.output_type == "stream")


def check(notebook: nbformat.NotebookNode, model: str) -> None:
    pruned = shown(notebook, "prune", "text/html")
    assert pruned.count("<svg") >= 1 and pruned.count("<tr>") > LAYERS[model]
    assert f"{model}, pruned in" in shown(notebook, "prune", "text/plain")
    _, header, *rows = (row.split() for row in shown(notebook, "evaluate", "text/plain").splitlines())
    assert header == [model, "small"] and rows[0][0] == "perplexity"
    assert float(rows[0][1]) < float(rows[0][2])
    assert "-host.so" in shown(notebook, "build", "text/html")
    assert len(printed(notebook, "stream").split()) > 1
    assert "tokens/s of the answer" in printed(notebook, "answer")


def test_it_was_kept_with_what_it_showed():
    kept = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(kept)
    check(kept, SMOLLM2)
    assert without_bars(kept) == nbformat.read(NOTEBOOK, as_version=4)
    numbers = [cell.execution_count for cell in kept.cells if cell.cell_type == "code"]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.soak
def test_it_runs(tmp_path):
    """With a smaller model: building it and asking it are the same."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace(SMOLLM2, TINY).replace("context=512", "context=128")
    ran = executed(notebook, tmp_path, cell_timeout_s=HANG_S)
    check(ran, TINY)
    assert [output for output in outputs(ran, "prune") if WIDGET in output.get("data", ())], "no bar was drawn"
    assert not [text for cell in ("prune", "evaluate", "build") if (text := printed(ran, cell))]
