"""``edge-transact.toml``: what `edge-transact build` does in a directory.

A section holds the options of a stage, under the names and with the defaults that they have on the command line.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from edge_transact.artifacts.outputs import new_file
from edge_transact.building.options import CALIBRATED_ROUNDINGS, BuildOptions, check_pruning
from edge_transact.errors import EdgeTransactError, UsageError, did_you_mean
from edge_transact.healing.options import FOUR_BITS, HealOptions
from edge_transact.options import IN_A_FILE, Options, description_of, options_of
from edge_transact.pruning.options import BUDGET_KEYS, BUDGETS, PruneChoices
from edge_transact.quantization import default_quantization
from edge_transact.reading import read_text

FILE = "edge-transact.toml"
DEFAULT_OUTPUT = "dist"


class Prune(PruneChoices):
    """Pruning before the build. Without a budget, only the calibration text for rounding.

    Bytes are counted in the build's quantization and for its context.
    """

    @model_validator(mode="after")
    def _not_several_budgets(self) -> Prune:
        budgets = self.budgets()
        if len(budgets) > 1:
            raise ValueError(f"{' and '.join(keys[0] for keys in budgets)} are several budgets")
        return self


class Heal(HealOptions):
    """Training of the pruned model before the build."""


class Build(BuildOptions):
    """The build and its sizes."""


class Project(Options):
    """One build of a model, optionally pruned and trained, into a directory."""

    model: str = Field(description="A directory, a hub id, a .gguf file, demo:smollm2 or demo:tiny.")
    output: str = Field(DEFAULT_OUTPUT, description="The DIST directory to make.")
    prune: Prune | None = Field(None, description="Leave it out to build the model as it is.")
    heal: Heal | None = Field(None, description="Leave it out to build the pruned model without training.")
    build: Build = Field(default_factory=Build)

    @model_validator(mode="after")
    def _has_a_budget(self) -> Project:
        if self.prune and not self.prune.budgets() and self.build.rounding not in CALIBRATED_ROUNDINGS:
            raise ValueError("no budget: give ratio, or another one")
        return self

    def overridden(self, given: Mapping[str, Any]) -> Project:
        """The project with options replaced by those in `given` that aren't `None`. Any budget replaces the file's.

        Raises:
            UsageError: A value is out of range, or there is no budget or more than one, named as on the command line.
        """
        given = {key: value for key, value in given.items() if value is not None}
        prune = given_in(self.prune) if self.prune else {}
        if any(key in given for key in BUDGET_KEYS):
            prune = {key: value for key, value in prune.items() if key not in BUDGET_KEYS}
        prune |= {key: value for key, value in given.items() if key in Prune.model_fields}
        build = given_in(self.build) | {key: value for key, value in given.items() if key in Build.model_fields}
        check_pruning(prune, build.get("rounding"))
        return Project(
            model=given.get("model", self.model),
            output=given.get("output", self.output),
            prune=Prune(**prune) if prune else None,
            heal=self.heal,
            build=Build(**build),
        )


def given_in(options: Options) -> dict[str, Any]:
    """The options that were given; the others have their defaults."""
    return {key: getattr(options, key) for key in options.model_fields_set}


def read_project(path: Path) -> Project:
    """The project in a file.

    Raises:
        EdgeTransactError: The file isn't TOML, or breaks the schema; the message has line, key, value and a suggestion.
    """
    try:
        text = read_text(path, "Check the file, or start over: init.")
        return Project.model_validate(tomllib.loads(text), context=IN_A_FILE)
    except ValidationError as error:
        raise _file_error(path, text, error) from error
    except (ValueError, RecursionError) as error:  # an integer of 5,000 digits, arrays 1,000 deep
        raise EdgeTransactError(
            f"{path} is not TOML: {error}", fix="Correct that line, or start over: init."
        ) from error


def json_schema() -> dict[str, Any]:
    draft = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": draft, **Project.model_json_schema(), "title": FILE}


def _file_error(path: Path, text: str, error: ValidationError) -> EdgeTransactError:
    # First a misspelt key, because it may be the missing one.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    keys = _keys(first)
    line = _line(text, keys)
    message, fix = _explain(first, keys)
    return EdgeTransactError(f"{path}{f', line {line}' if line else ''}: {message}", fix=fix)


def _keys(error: ErrorDetails) -> list[str]:
    """Section and key, or a key without a section. The rest of the location is list indices and types."""
    # An error of the whole file is a [prune] without a budget.
    return [key for key in error["loc"] if isinstance(key, str)][:2] or ["prune"]


def _explain(error: ErrorDetails, keys: Sequence[str]) -> tuple[str, str]:
    name = ".".join(keys)
    if error["type"] == "extra_forbidden":
        sections: dict[str, type[Options]] = {"prune": Prune, "heal": Heal, "build": Build}
        section = sections.get(keys[0] if len(keys) > 1 else "", Project)
        return f"unknown key {name}", did_you_mean(keys[-1], section.model_fields)
    if error["type"] == "missing":
        return f"{name} is missing", f'Add it, for example {name} = "demo:smollm2".'
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, UsageError):
        return f"{name}: {cause.message}", cause.fix
    if cause is not None:
        return f"[{name}]: {cause}", "Give one of ratio, target_params, widths, or heads with intermediate."
    message = error["msg"][0].lower() + error["msg"][1:]
    fix = "Correct the value; edge-transact init --json-schema lists all keys."
    return f"{name} is {error['input']!r}: {message}", fix


def _line(text: str, keys: Sequence[str]) -> int | None:
    """The line of a key such as ``["build", "context"]``, or of its section if the key isn't found."""
    section, found = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            section = header[1]
            if keys and section == keys[0]:
                found = found or number
        elif assigned := re.match(r"\s*[\"']?([\w.-]+?)[\"']?\s*=", line):
            path = [*([section] if section else []), *assigned[1].split(".")]
            if path == list(keys) or (len(path) == 1 and path == list(keys[:1])):
                return number
    return found


def write_project(path: Path, given: Mapping[str, Any], *, force: bool = False) -> Project:
    """Writes a project file, or with `force` changes the one that is there.

    A value of `None` in `given` keeps that of the file, or of a new file's template.

    Raises:
        UsageError: A value is out of range, or a name is unknown.
        EdgeTransactError: The file exists and `force` is off, or it can't be read.
    """
    import tomlkit

    is_new = not os.path.lexists(path)
    if not is_new:
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
    if is_new:
        if quant := _trained_quant(project.build):
            document["heal"]["quant"] = quant
        else:
            del document["heal"]["quant"]
    for key in given.keys() & {"model", "output"}:
        document[key] = given[key]
    with new_file(path, b"", own=True) as fresh:
        fresh.write_text(tomlkit.dumps(document), encoding="utf-8")
        if path.exists():
            shutil.copymode(path, fresh)
    return project


def _trained_quant(build: BuildOptions) -> str | None:
    """The quantization to train through: the build's, if it keeps such codes."""
    name = build.quant or default_quantization(build.target)
    return name if name in FOUR_BITS and build.rounding is None and build.engine == "tvm" else None


def _new_file() -> str:
    """The text of a new file, with every key and its default in a comment."""
    from edge_transact.artifacts.templates import template

    prune = {key["name"]: key for key in _options(Prune)}
    limits, *widths = ([prune.pop(name) for name in names if name != "ratio"] for names in BUDGETS)
    del prune["ratio"], prune["calibration"]
    heal = [key for key in _options(Heal) if key["name"] not in ("cross_entropy", "quant")]
    return template(f"{FILE}.j2").render(
        output=DEFAULT_OUTPUT,
        limits=limits,
        widths=[key for keys in widths for key in keys],
        prune=prune.values(),
        heal=heal,
        build=_options(Build),
    )


def _options(section: type[Options]) -> Iterator[dict[str, str]]:
    """Each key, its default or an example as TOML, and its help."""
    for name, field, option in options_of(section):
        value = field.get_default() if option.example is None else option.example
        default = f" Default: {option.default}." if option.default else ""
        # A JSON string, number, boolean or list is TOML too.
        yield {"name": name, "value": json.dumps(value), "help": description_of(field, option) + default}
