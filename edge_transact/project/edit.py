"""Writing and changing ``edge-transact.toml``: comments, order and spacing stay as their author left them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit

from edge_transact.artifacts.templates import template
from edge_transact.errors import EdgeTransactError
from edge_transact.project.schema import BUDGET_KEYS, FILE, Build, Project, Prune, read_project


def write_project(path: Path, options: Mapping[str, Any], *, force: bool = False) -> Project:
    """Writes a project file, or changes the one that is there.

    Args:
        path: The file.
        options: Values by key; `None` leaves what the file, or the template of a new one, has.
        force: Change an existing file rather than refuse it.

    Raises:
        UsageError: A value is out of range, or a name is unknown.
        EdgeTransactError: The file exists and `force` is off, or it can't be read.
    """
    if path.exists():
        if not force:
            raise EdgeTransactError(f"{path} exists", fix="Edit it, or change it from here with --force.")
        project, text = read_project(path), path.read_text(encoding="utf-8")
    else:
        text = template(f"{FILE}.j2").render()
        project = Project.model_validate(tomlkit.parse(text).unwrap())
    project = project.overridden(options).validated()
    document = tomlkit.parse(text)
    given = {key: value for key, value in options.items() if value is not None}
    if any(key in given for key in BUDGET_KEYS):
        for key in BUDGET_KEYS:
            if key not in given and key in document.get("prune", {}):
                del document["prune"][key]
    for section, model in (("prune", Prune), ("build", Build)):
        for key in given.keys() & model.model_fields.keys():
            if section not in document:
                document[section] = tomlkit.table()
            document[section][key] = getattr(getattr(project, section), key)
    for key in given.keys() & {"model", "output"}:
        document[key] = given[key]
    _replace(path, tomlkit.dumps(document))
    return project


def _replace(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.absolute().parent, delete=False) as file:
        file.write(text)
    os.chmod(file.name, path.stat().st_mode & 0o777 if path.exists() else 0o644)
    os.replace(file.name, path)
