"""The options of a command from its models: one typer option for each field that has an `Option`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import wraps
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic import BeforeValidator, WrapValidator
from pydantic.fields import FieldInfo

from edge_transact.errors import UsageError
from edge_transact.options import COMMAS, Option, Options, choices_of, flag_of, help_of, metadata_of, options_of


def expand(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters typed as `Options` models become the options that the models describe.

    The command gets a model of what was given; ``Annotated[Model, "Prefix"]`` names the panels of its options
    ``Prefix: ...``. A parameter ``context_of_command: typer.Context`` gets typer's context.

    Raises:
        UsageError: From the command that is returned, as the models raise it.
    """
    signature = inspect.signature(command, eval_str=True)
    models: dict[str, type[Options]] = {}
    parameters = [inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for parameter in signature.parameters.values():
        if parameter.name == _CONTEXT:
            continue
        model, prefix = _model(parameter.annotation)
        if model is None:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        else:
            models[parameter.name] = model
            parameters += _parameters(model, prefix)

    @wraps(command)
    def run(**values: Any) -> None:
        context: typer.Context = values[_CONTEXT]
        if _CONTEXT not in signature.parameters:
            del values[_CONTEXT]
        for parameter, model in models.items():
            fields = {name: values.pop(name) for name, _, _ in options_of(model)}
            given = (name for name in fields if _source(context, name) in ("COMMANDLINE", "ENVIRONMENT"))
            values[parameter] = model(**{name: fields[name] for name in given})
        command(**values)

    if not models:
        return command
    # inspect and typing look for these two before anything else.
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return run


def refuse_others(context: typer.Context, mode: str, used: Collection[str]) -> None:
    """Raise a `UsageError` for options that were given although a mode of the command uses only some parameters."""
    others = [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        # Global flags aren't exposed.
        if parameter.expose_value and parameter.name not in used and _source(context, parameter.name) == "COMMANDLINE"
    ]
    if others:
        raise UsageError(f"{mode} does not use {', '.join(others)}", fix="Leave that out.")


_CONTEXT = "context_of_command"
"""The parameter that typer's context comes in."""


def _source(context: typer.Context, name: str) -> str | None:
    source = context.get_parameter_source(name)
    return source and source.name


def _model(annotation: Any) -> tuple[type[Options] | None, str | None]:
    """The model that an annotation names, and the prefix of its panels."""
    model, prefix = get_args(annotation)[:2] if get_origin(annotation) is Annotated else (annotation, None)
    return (model, prefix) if isinstance(model, type) and issubclass(model, Options) else (None, None)


def _parameters(model: type[Options], prefix: str | None) -> Iterator[inspect.Parameter]:
    for name, field, option in options_of(model):
        reads, names = _type(field), choices_of(field)
        shown, default = _default(field, option, reads)
        settings = typer.Option(
            *(option.flags or (flag_of(name, option),)),
            help=help_of(field, option),
            rich_help_panel=f"{prefix}: {option.panel.lower()}" if prefix and option.panel else option.panel,
            metavar=option.metavar,
            show_default=shown,
            envvar=option.envvar,
            autocompletion=completion(names, commas=COMMAS in field.metadata) if names else None,
        )
        kind: Any = reads if default is not None else reads | None
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, settings]
        )


def completion(names: Iterable[str], *, commas: bool = False) -> Callable[[str], list[str]]:
    """What the shell completes a value with that is one of `names`, or several with commas between them."""

    def complete(incomplete: str) -> list[str]:
        given = incomplete.rpartition(",")[0] + "," if commas and "," in incomplete else ""
        return [given + name for name in names if (given + name).startswith(incomplete)]

    return complete


def _type(field: FieldInfo) -> type:
    """The type that typer reads for a field: its own, or text where the field has a parser for it."""
    types = set(_plain_types(field.annotation))
    if list[str] in types and COMMAS not in field.metadata:
        return list[str]  # given once for each
    if any(isinstance(entry, BeforeValidator | WrapValidator) for entry in metadata_of(field)):
        return str
    return next(kind for kind in (str, Path, float, int, bool) if kind in types)


def _plain_types(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Annotated:
        yield from _plain_types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _plain_types(member)
    else:
        yield annotation


def _default(field: FieldInfo, option: Option, reads: type) -> tuple[str | bool, Any]:
    """What is shown as the default, and what typer has as one: the model's own, in the words of the command line."""
    value = field.get_default()
    if option.default is not None:
        return option.default, None
    if value is None or value == [] or value == "":
        return False, None
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    return True, [value] if reads == list[str] else value
