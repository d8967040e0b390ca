"""Options of calibration: the text that activations are measured on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edge_transact.options import Count, OneOf, Option, Options

TEXT = "Calibration"
"""The panel of ``--help``."""

PACKINGS = ("joined", "documents")
"""How windows are cut: from a text's documents joined by blank lines, or from each document alone."""


class CalibrationOptions(Options):
    """The text that a model's activations are measured on."""

    calibration: Annotated[
        str | Annotated[list[str], Field(min_length=1)],
        Option(
            "Text to measure activations on. Repeat it to mix texts; TEXT=2 takes twice as much of one.",
            TEXT,
            metavar="TEXT",
        ),
    ] = "demo:mixed"
    calibration_tokens: Annotated[Count, Option("Number of calibration tokens.", TEXT)] = 32768
    calibration_window: Annotated[
        Count | None,
        Option("Tokens per calibration window.", TEXT, default="512, or the model's context if shorter", example=512),
    ] = None
    packing: Annotated[
        Annotated[str, OneOf(PACKINGS)],
        Option("Cut windows from the documents joined together or from each document alone: {choices}.", TEXT),
    ] = "joined"
    seed: Annotated[int, Option("Which windows to draw. The same seed writes the same bytes.", TEXT)] = 0


CALIBRATION_KEYS = tuple(CalibrationOptions.model_fields)
