"""Types of option values: sizes in bytes, numbers of parameters, names out of a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import (
    BeforeValidator,
    ByteSize,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

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
            share = float(number.removesuffix("%"))
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
