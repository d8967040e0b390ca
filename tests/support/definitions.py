"""A plan's definition as a build has it: files, and what they define."""

from pathlib import Path

from edge_transact.definition import load, render
from edge_transact.definition.loaded import Definition
from edge_transact.widths import WidthPlan


def emit(directory: Path, plan: WidthPlan, config: dict) -> Definition:
    """Writes the plan's definition to a directory, and loads it."""
    directory.mkdir(exist_ok=True)
    for name, text in render(plan).items():
        (directory / name).write_text(text)
    return load(directory, config)
