"""The text on which reports measure perplexity, and the checks before the work that they report on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge_transact.artifacts.outputs import refuse_existing
from edge_transact.inputs.texts import read_text

TEXT, WINDOWS = "demo:sotu", 6
"""The text, of which the evaluation part is measured, and the number of windows. Calibration doesn't read that part."""


def prepare_report(directory: Path, *, force: bool, apart_from: Iterable[str | Path | None]) -> str:
    """Checks before the work that a report can be written. Returns the text to measure on.

    Raises:
        UsageError: The report would replace one of `apart_from`, the work's own inputs and outputs.
        EdgeTransactError: `directory` exists, or the text can't be read.
    """
    refuse_existing(directory, force, apart_from=apart_from)
    return read_text(TEXT, "evaluation")
