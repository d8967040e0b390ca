"""The base of all option models, and what a field says about itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from edge_transact.errors import UsageError, did_you_mean
from edge_transact.options.values import OneOf, UnknownName, metadata_of

IN_A_FILE = {"in": "file"}
"""A validation context that keeps pydantic's own errors, which tell the reader of a file where each mistake is."""


@dataclass(frozen=True)
class Option:
    """How people meet a field of an `Options` model. A field without one is for Python only.

    Attributes:
        help: A sentence or two; ``{choices}`` stands for the names that the field allows.
        panel: The panel of ``--help`` that lists the option.
        flags: Its flags; by default the field's name with dashes.
        default: What the default depends on, where it isn't a value.
        example: A value, where there is no default or it depends on something.
    """

    help: str
    panel: str | None = None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    default: str | None = None
    example: str | float | bool | list[str] | None = None
    envvar: str | None = None

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"description": self.help.replace(": {choices}", "")}


class Options(BaseModel):
    """A stage's options. Immutable, strict about types, and closed: an unknown name is an error.

    Raises:
        UsageError: A value is out of range, or a name is unknown; named as on the command line.
    """

    # Validators are built on first use: --help needs the fields only, and building takes longer than it.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)

    @model_validator(mode="wrap")
    @classmethod
    def _usage_errors(cls, values: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            if info.context == IN_A_FILE:
                raise
            raise _usage_error(cls, error.errors()[0]) from error


def options_of(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo, Option]]:
    """The fields of a model that people can set: name, field, and what it says about itself."""
    for name, field in model.model_fields.items():
        for entry in field.metadata:
            if isinstance(entry, Option):
                yield name, field, entry


def choices_of(field: FieldInfo) -> list[str]:
    """The names that a field allows; none if it allows any."""
    return [name for entry in metadata_of(field) if isinstance(entry, OneOf) for name in entry.choices]


def description_of(field: FieldInfo, option: Option) -> str:
    """What a field is, with the names that it allows."""
    names = choices_of(field)
    return option.help.replace("{choices}", " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:]))))


def help_of(field: FieldInfo, option: Option) -> str:
    """The help of a field: what it is, and an example where it has no default."""
    text = description_of(field, option)
    return text if option.example is None or option.default else f"{text.rstrip('.')}, e.g. {option.example}."


def text_of(field: FieldInfo) -> str:
    """What a field is and what its default depends on, for documentation of Python."""
    option = next((entry for entry in field.metadata if isinstance(entry, Option)), None)
    if option is None:
        return field.description or ""
    text = description_of(field, option)
    return f"{text} By default {option.default}." if option.default else text


def flag_of(name: str, option: Option | None) -> str:
    """The flag of a field, as messages name it."""
    return option.flags[0].partition("/")[0] if option and option.flags else f"--{name.replace('_', '-')}"


def _usage_error(model: type[BaseModel], error: ErrorDetails) -> UsageError:
    cause = error.get("ctx", {}).get("error")
    name = str(error["loc"][0]) if error["loc"] else ""
    if not name:
        return UsageError(cause.message, fix=cause.fix) if isinstance(cause, UsageError) else UsageError(error["msg"])
    field = model.model_fields.get(name)
    if field is None:
        return UsageError(f"there is no option {name!r}", fix=did_you_mean(name, model.model_fields))
    option = next((entry for entry in field.metadata if isinstance(entry, Option)), None)
    flag = flag_of(name, option)
    if isinstance(cause, UnknownName):
        what = next(entry.what for entry in metadata_of(field) if isinstance(entry, OneOf)) or name.removesuffix("s")
        return UsageError(f"unknown {what} {error['input']!r}", fix=cause.fix)
    if isinstance(cause, UsageError):
        return UsageError(f"{flag}: {cause.message}", fix=cause.fix)
    fix = help_of(field, option) if option else ""
    return UsageError(f"{flag} {error['input']} is {_wrong(field, error)}", fix=fix)


def _wrong(field: FieldInfo, error: ErrorDetails) -> str:
    """What is wrong with a value, from the bounds of its field or in pydantic's words."""
    bounds = {
        name: getattr(entry, name)
        for entry in metadata_of(field)
        for name in ("gt", "ge", "lt", "le")
        if hasattr(entry, name)
    }
    if error["type"].startswith(("greater_than", "less_than", "finite")):
        if bounds.keys() >= {"gt", "lt"}:
            return f"not between {bounds['gt']:g} and {bounds['lt']:g}"
        if "le" in bounds and error["type"].startswith("less_than"):
            return f"more than {bounds['le']:,}"
        if "ge" in bounds:
            return f"not at least {bounds['ge']:g}"
    if error["type"] == "int_parsing":
        return "not a whole number"
    return f"not valid: {error['msg'][0].lower()}{error['msg'][1:]}"
