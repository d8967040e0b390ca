"""Writes and changes ``edge-transact.toml``; comments, order and spacing stay."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomlkit

from edge_transact.artifacts.templates import template
from edge_transact.errors import EdgeTransactError
from edge_transact.options import Options, options_of
from edge_transact.options.model import description_of
from edge_transact.project.schema import DEFAULT_OUTPUT, FILE, Build, Heal, Project, Prune, read_project
from edge_transact.pruning.options import BUDGET_KEYS, BUDGETS
from edge_transact.reading import read_text


def write_project(path: Path, given: Mapping[str, Any], *, force: bool = False) -> Project:
    """Writes a project file, or with `force` changes the one that is there.

    A value of `None` in `given` keeps that of the file, or of a new file's template.

    Raises:
        UsageError: A value is out of range, or a name is unknown.
        EdgeTransactError: The file exists and `force` is off, or it can't be read.
    """
    if os.path.lexists(path):
        if not force:
            raise EdgeTransactError(f"{path} exists", fix="Edit it, or change it with --force.")
        project, text = read_project(path), read_text(path)
    else:
        text = _new_file()
        project = Project.model_validate(tomlkit.parse(text).unwrap())
    project = project.overridden(given)
    document = tomlkit.parse(text)
    given = {key: value for key, value in given.items() if value is not None}
    if any(key in given for key in BUDGET_KEYS):
        for key in BUDGET_KEYS:
            if key not in given and key in document.get("prune", {}):
                del document["prune"][key]
    for section, model in (("prune", Prune), ("build", Build)):
        for key in given.keys() & model.model_fields.keys():
            if section not in document:
                document[section] = tomlkit.table()
            document[section][key] = getattr(project, section).model_dump(mode="json")[key]
    for key in given.keys() & {"model", "output"}:
        document[key] = given[key]
    _replace(path, tomlkit.dumps(document))
    return project


def _new_file() -> str:
    """The text of a new file, with every key and its default in a comment."""
    prune = {key["name"]: key for key in _keys(Prune)}
    limits, *widths = ([prune.pop(name) for name in names if name != "ratio"] for names in BUDGETS)
    del prune["ratio"]
    return template(f"{FILE}.j2").render(
        output=DEFAULT_OUTPUT,
        limits=limits,
        widths=[key for keys in widths for key in keys],
        prune=prune.values(),
        heal=_keys(Heal),
        build=_keys(Build),
    )


def _keys(section: type[Options]) -> Iterator[dict[str, str]]:
    """Each key, its default or an example as TOML, and its help."""
    for name, field, option in options_of(section):
        value = field.get_default() if option.example is None else option.example
        default = f" Default: {option.default}." if option.default else ""
        # A JSON string, number, boolean or list is TOML too.
        yield {"name": name, "value": json.dumps(value), "help": description_of(field, option) + default}


def _replace(path: Path, text: str) -> None:
    content = text.encode()  # which may fail: before there is a file
    with tempfile.NamedTemporaryFile(dir=path.absolute().parent, delete=False) as file:
        file.write(content)
    os.chmod(file.name, path.stat().st_mode & 0o777 if path.exists() else 0o644)
    os.replace(file.name, path)
