"""Renders the definition's files for a plan, and loads the model file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from edge_transact.artifacts.templates import template
from edge_transact.definition.loaded import Definition
from edge_transact.errors import EdgeTransactError
from edge_transact.widths import LayerWidths, WidthPlan

MODEL_TYPE = "edge_llama"
"""The architecture's name in config.json, in MLC's registry and in a library's metadata."""

MODEL_FILE = "edge_llama_model.py"
FILES = (MODEL_FILE, "edge_llama_loader.py", "edge_llama_register.py", "__init__.py")


def render(plan: WidthPlan) -> dict[str, str]:
    """The definition's package, file name to text: the model, with the plan's widths; the loader; the registration."""
    context = {"plan": plan, "runs": list(_runs(plan)), "model_type": MODEL_TYPE}
    return {name: template(f"{name}.j2").render(context) for name in FILES}


def _runs(plan: WidthPlan) -> Iterator[dict[str, str | LayerWidths]]:
    """Runs of layers with the same widths, the rows of the emitted table."""
    start = 0
    for widths, layers in groupby(plan.layers):
        end = start + len(list(layers)) - 1
        yield {"layers": f"{start}" if start == end else f"{start}-{end}", "widths": widths}
        start = end + 1


def load(directory: Path, config: Mapping[str, object]) -> Definition:
    """Load ``edge_llama_model.py``, which `render` made, with a config.json that has the library's sizes.

    Raises:
        EdgeTransactError: There is no such file, or the configuration contradicts itself or the file.
    """
    path = directory / MODEL_FILE
    if not path.is_file():
        raise EdgeTransactError(
            f"{directory} has no {MODEL_FILE}", fix="Build the model again: it emits the definition."
        )
    name = f"edge_transact_emitted_{abs(hash(str(path.resolve())))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    try:
        return Definition(module, module.EdgeLlamaConfig.from_dict(config))
    except ValueError as error:
        raise EdgeTransactError(f"config.json: {error}", fix="Prune the model again.") from error
