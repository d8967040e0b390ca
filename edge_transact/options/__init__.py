"""Options as typed models: an option's name, type, default, range and help are written once, as a field.

From the fields of a stage's `Options` come the command line (`options.command_line`), Python's keyword arguments
(`options.keywords`), the sections of ``edge-transact.toml`` (`project`), cache keys and provenance. A model holds what
a result depends on; where a result goes and how a run goes are parameters of functions and commands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from edge_transact.errors import UsageError, did_you_mean


class BadValue(UsageError, ValueError):
    """A value that is refused. As a `ValueError` it reaches pydantic, which adds the field that it was meant for."""


class UnknownName(BadValue):
    """A name that isn't among the choices."""


@dataclass(frozen=True)
class OneOf:
    """In an annotation, allows some names only. `what` they name is in messages; by default the option's name."""

    choices: tuple[str, ...]
    what: str = ""

    def check(self, name: str) -> str:
        """The name itself; raises an `UnknownName` if it is not among the choices."""
        if name not in self.choices:
            raise UnknownName(f"unknown {name!r}", fix=did_you_mean(name, self.choices))
        return name

    def __get_pydantic_core_schema__(self, source: type, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"enum": list(self.choices)}


def _split(value: object) -> object:
    if isinstance(value, str):
        return [name.strip() for name in value.split(",")]
    return list(value) if isinstance(value, tuple) else value


COMMAS = BeforeValidator(_split)
"""Lets a list be written as one string with commas, as on the command line, or as a tuple, as in Python."""

_PARAMETERS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


def parse_parameters(text: str | int) -> int:
    """A number of parameters: ``1.3B``, ``900M``, ``64k`` or digits; raises a `BadValue` for others."""
    match = re.fullmatch(r"(\d{1,18}(?:\.\d+)?)\s*([a-zA-Z]*)", _without_separators(str(text)))
    if not match or match[2].upper() not in _PARAMETERS:
        raise BadValue(f"{text!r} is not a number of parameters", fix="Write 1.3B, 900M or digits.")
    return round(float(match[1]) * _PARAMETERS[match[2].upper()])


def _share(value: object) -> object:
    if isinstance(value, str):
        number = value.strip()
        try:
            share = float(number.removesuffix("%").encode("ascii"))  # digits of other scripts are no shares
        except ValueError:
            raise BadValue(f"{value!r} is not a share", fix="Write 0.3 or 30%.") from None
        value = share / 100 if number.endswith("%") else share
    if isinstance(value, int | float) and 2 <= value <= 100:
        fix = f"For {value:g} %, write {value / 100:g} or {value:g}%."
        raise BadValue(f"{value:g} is not between 0 and 1", fix=fix)
    return value


def _parse_bytes(value: object, parse: ValidatorFunctionWrapHandler) -> object:
    # ByteSize reads the beginning of a text and ignores the rest: 1,234 would be one byte.
    text = _without_separators(str(value))
    try:
        if re.fullmatch(r"\d{1,18}(?:\.\d+)?\s*[a-zA-Z]*", text):
            return parse(text)
    except ValidationError:
        pass
    raise BadValue(f"{value!r} is not a number of bytes", fix="Write 600MB, 1.5GiB or digits.")


def _without_separators(number: str) -> str:
    return number.strip().replace("_", "").replace(",", "")


_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def _time(value: object) -> object:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)\s*(us|ms|s)", value.strip())
        if not match:
            raise BadValue(f"{value!r} is not a time", fix="Write 12ms or 1.5s.")
        return float(match[1]) * _SECONDS[match[2]]
    return value


def tokens_and_seconds(text: str) -> tuple[int, float]:
    """The tokens and the seconds of ``256:1.5s``; raises a `BadValue` for others."""
    tokens, colon, time = str(text).partition(":")
    if not colon or not tokens.strip().isdecimal() or not 0 < int(tokens) <= 10**6:
        raise BadValue(f"{text!r} is not a number of tokens and a time", fix="Write 256:1.5s.")
    return int(tokens), float(str(_time(time)))


def _tokens_and_time(value: object) -> object:
    tokens_and_seconds(str(value))
    return value


MOST_CPUS = 1024

Count = Annotated[int, Field(ge=1, le=10**12)]
Threads = Annotated[int, Field(ge=1, le=MOST_CPUS)]
Share = Annotated[float, BeforeValidator(_share, json_schema_input_type=float | str), Field(gt=0, lt=1)]
Parameters = Annotated[int, BeforeValidator(parse_parameters, json_schema_input_type=int | str), Field(ge=1)]
Seconds = Annotated[float, BeforeValidator(_time, json_schema_input_type=float | str), Field(gt=0, le=10**6)]
TokensAndTime = Annotated[str, BeforeValidator(_tokens_and_time)]
Bytes = Annotated[ByteSize, WrapValidator(_parse_bytes), Field(ge=1)]


def metadata_of(annotation: Any) -> Iterator[Any]:
    """What a field or an annotation says besides its types, at any depth: constraints, choices, validators."""
    if isinstance(annotation, FieldInfo):
        yield from annotation.metadata
        yield from metadata_of(annotation.annotation)
    for entry in getattr(annotation, "__metadata__", ()):
        yield from metadata_of(entry) if isinstance(entry, FieldInfo) else (entry,)
    for argument in get_args(annotation):
        yield from metadata_of(argument)


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
    return [name for entry in metadata_of(field) if isinstance(entry, OneOf) for name in entry.choices]


def description_of(field: FieldInfo, option: Option) -> str:
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
