"""``edge-transact.toml``: what `edge-transact build` does in a directory, and the same request made of options alone.

Keys are named as the options that override them. A key that is left out means the stage's own default, so defaults
are written down in one place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from edge_transact.compiler.targets import TARGETS
from edge_transact.errors import EdgeTransactError, UsageError, did_you_mean
from edge_transact.quantization import QUANTIZATIONS

ENGINES = ("tvm", "mlc")

FILE = "edge-transact.toml"
DEFAULT_OUTPUT = "dist"

BUDGETS = (
    ("ratio", "target_params", "max_weight_bytes", "max_kv_bytes_per_token", "max_memory"),
    ("widths",),
    ("heads", "intermediate"),
)
"""The keys that say how small; those of one tuple go together, those of two exclude each other."""
BUDGET_KEYS = tuple(key for keys in BUDGETS for key in keys)


class _Unknown(ValueError):
    """A name that isn't among the choices; carries what to do about it."""

    def __init__(self, name: str, choices: Sequence[str]) -> None:
        super().__init__(f"unknown {name!r}")
        self.fix = did_you_mean(name, choices)


def _one_of(choices: Sequence[str]) -> tuple[AfterValidator, Any]:
    def check(name: str) -> str:
        if name not in choices:
            raise _Unknown(name, choices)
        return name

    return AfterValidator(check), Field(json_schema_extra={"enum": list(choices)})


def _split(value: Any) -> Any:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


Target = Annotated[str, *_one_of(tuple(TARGETS))]
QuantizationName = Annotated[str, *_one_of(tuple(QUANTIZATIONS))]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Prune(_Section):
    """How the model is pruned before it is built: how small, and how what stays is chosen.

    Bytes are counted in the build's quantization and for its context.
    """

    ratio: Annotated[float, Field(gt=0, lt=1)] | None = Field(None, description="Share of attention + MLP to remove.")
    target_params: int | str | None = Field(None, description="Parameters to be left, such as 1.3B.")
    max_weight_bytes: int | str | None = Field(None, description="Bytes of all weights, such as 600MB.")
    max_kv_bytes_per_token: int | str | None = Field(None, description="Bytes that a token takes in the KV cache.")
    max_memory: int | str | None = Field(None, description="Weights, KV cache and workspace, such as 1.5GiB.")
    widths: str | None = Field(None, description="A JSON file with the widths of every layer.")
    heads: Count | None = Field(None, description="Query heads that every layer keeps.")
    intermediate: Count | None = Field(None, description="MLP dims that every layer keeps.")
    method: str | None = Field(None, description="What scores heads and MLP dims.")
    allocation: Annotated[str, *_one_of(("uniform", "sensitivity", "budgeted"))] | None = Field(
        None, description="How limits are spread over layers and units."
    )
    compensate: bool | None = Field(None, description="Solve o_proj and down_proj anew.")
    shots: Count | None = Field(None, description="In how many steps the widths shrink.")
    bucket: Count | None = Field(None, description="MLP widths become multiples of it.")
    calibration: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="The calibration TEXT, or several."
    )
    calibration_tokens: Count | None = Field(None, description="How much of it.")
    calibration_window: Count | None = Field(None, description="Tokens of a window of it.")
    packing: str | None = Field(None, description="Whether windows go across its documents: joined; or documents.")
    seed: int | None = Field(None, description="Which part of it.")

    @model_validator(mode="after")
    def _one_budget(self) -> Prune:
        given = [keys for keys in BUDGETS if any(getattr(self, key) is not None for key in keys)]
        if len(given) != 1:
            names = " and ".join(keys[0] for keys in given)
            raise ValueError(f"{names} are several budgets" if given else "no budget: give ratio, or another one")
        return self


class Build(_Section):
    """What is built, and with which sizes."""

    target: Annotated[list[Target], BeforeValidator(_split), Field(min_length=1)] = Field(
        ["android", "host"], description="What to build for."
    )
    quant: QuantizationName | None = Field(None, description="The quantization of all libraries.")
    context: Count | None = Field(None, description="Tokens that a sequence may have.")
    prefill_chunk: Count | None = Field(None, description="Tokens of one prefill call.")
    max_batch: Count | None = Field(None, description="Sequences at once.")
    engine: Annotated[str, *_one_of(ENGINES)] | None = Field(None, description="Whose compiler.")


class Project(_Section):
    """One build: a model, perhaps pruned, for some targets, into a directory."""

    model: str = Field(description="A directory, a hub id, a .gguf file, demo:smollm2 or demo:tiny.")
    output: str = Field(DEFAULT_OUTPUT, description="The DIST directory to make.")
    prune: Prune | None = Field(None, description="Leave it out to build the model as it is.")
    build: Build = Build()

    def overridden(self, options: Mapping[str, Any]) -> Project:
        """With the options that were given (not `None`) in place of the file's values; not validated.

        A budget on the command line replaces the file's, of whatever kind.
        """
        given = {key: value for key, value in options.items() if value is not None}
        if "target" in given:
            given["target"] = _split(given["target"])
        prune = self.prune.model_dump(exclude_none=True) if self.prune else {}
        if any(key in given for key in BUDGET_KEYS):
            prune = {key: value for key, value in prune.items() if key not in BUDGET_KEYS}
        prune |= {key: value for key, value in given.items() if key in Prune.model_fields}
        build = self.build.model_dump() | {key: value for key, value in given.items() if key in Build.model_fields}
        return Project.model_construct(
            model=given.get("model", self.model),
            output=given.get("output", self.output),
            prune=Prune.model_construct(**prune) if prune else None,
            build=Build.model_construct(**build),
        )

    def validated(self) -> Project:
        """The same project, its values checked.

        Raises:
            UsageError: One isn't as the schema says, named as the option that it came from.
        """
        try:
            return Project.model_validate(self.model_dump(exclude_none=True))
        except ValidationError as error:
            first = error.errors()[0]
            keys = _keys(first)
            message, fix = _explain(first, [f"--{keys[-1].replace('_', '-')}"])
            raise UsageError(message, fix=fix) from error


def read_project(path: Path) -> Project:
    """The project in a file.

    Raises:
        EdgeTransactError: The file isn't TOML or not as the schema says: the line, the key, the value, what was meant.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return Project.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise EdgeTransactError(
            f"{path} is not TOML: {error}", fix="Mend that line, or write it anew: init."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise EdgeTransactError(
            f"{path} can't be read: {error}", fix="Check the file, or write it anew: init."
        ) from error
    except ValidationError as error:
        raise _file_error(path, text, error) from error


def json_schema() -> dict[str, Any]:
    """The schema of the file, for editors."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Project.model_json_schema(),
        "title": FILE,
    }


def _file_error(path: Path, text: str, error: ValidationError) -> EdgeTransactError:
    # A misspelt key may be the missing one: it is said first.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    keys = _keys(first)
    line = _line(text, keys)
    where = f"{path}, line {line}" if line else str(path)
    message, fix = _explain(first, keys)
    return EdgeTransactError(f"{where}: {message}", fix=fix)


def _keys(first: Mapping[str, Any]) -> list[str]:
    """Section and key, or a key without a section; what follows counts in lists and among types."""
    return [key for key in first["loc"] if isinstance(key, str)][:2]


def _explain(first: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, str]:
    name = ".".join(keys)
    if first["type"] == "extra_forbidden":
        sections: dict[str, type[_Section]] = {"prune": Prune, "build": Build}
        section = sections.get(keys[0] if len(keys) > 1 else "", Project)
        return f"unknown key {name}", did_you_mean(keys[-1], section.model_fields)
    if first["type"] == "missing":
        return f"{name} is missing", f'Add it: {name} = "demo:smollm2", say.'
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, _Unknown):
        return f"{name}: {cause}", cause.fix
    if cause is not None:
        return f"[{name}]: {cause}", "Give one of ratio, target_params, widths, or heads with intermediate."
    message = first["msg"][0].lower() + first["msg"][1:]
    return (
        f"{name} is {first['input']!r}: {message}",
        "Correct the value; edge-transact init --json-schema lists all keys.",
    )


def _line(text: str, keys: Sequence[str]) -> int | None:
    """The line of a key such as ``["build", "context"]``; of its section where the key isn't found."""
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
