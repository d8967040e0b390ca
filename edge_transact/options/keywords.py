"""The keyword arguments of a function from a model: typed, documented and checked as its fields."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import reduce, wraps
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ByteSize, WrapValidator

from edge_transact.options.model import Options
from edge_transact.options.values import metadata_of

Subject = TypeVar("Subject")
Fields = ParamSpec("Fields")
Call = TypeVar("Call", bound=Options)
Result = TypeVar("Result")
Some = TypeVar("Some", bound=Options)


def keywords(
    model: Callable[Fields, Call],
) -> Callable[[Callable[[Subject, Path, Call], Result]], Callable[Concatenate[Subject, str | Path, Fields], Result]]:
    """Makes a function of a subject, an output and a model one whose keyword arguments are the model's fields.

    A checker sees the parameters of the model's constructor, an editor and a notebook its fields and what its docstring
    says of them.
    """
    made: Callable[..., Call] = model
    assert isinstance(model, type) and issubclass(model, Options)

    def decorate(
        function: Callable[[Subject, Path, Call], Result],
    ) -> Callable[Concatenate[Subject, str | Path, Fields], Result]:
        subject, output, _ = inspect.signature(function).parameters.values()

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Result:
            given = inspect.Signature([subject, output]).bind(
                *arguments, **{name: options.pop(name) for name in (subject.name, output.name) if name in options}
            )
            first, second = given.args
            return function(first, Path(second), made(**options))

        call.__doc__ = _documented(inspect.cleandoc(function.__doc__ or ""), model)
        # inspect and all that show a signature look for it before anything else.
        call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [subject, output.replace(annotation="str | Path"), *signature_of(model).parameters.values()],
            return_annotation=inspect.signature(function).return_annotation,
        )
        return call

    return decorate


def part(call: Options, model: type[Some]) -> Some:
    """Those fields that were given of a larger model, as a smaller one."""
    return model(**{name: getattr(call, name) for name in call.model_fields_set & model.model_fields.keys()})


def signature_of(model: type[BaseModel]) -> inspect.Signature:
    """The keyword parameters of a model: pydantic makes them on first use, and then with its own annotations."""
    parameters = []
    for name, field in model.model_fields.items():
        default = inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
        annotation = _plain(field.annotation)
        if any(_reads_text(entry) for entry in metadata_of(field)):
            members = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
            annotation = reduce(or_, sorted((*members, str), key=lambda member: member is NoneType))
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return inspect.Signature(parameters)


def _reads_text(entry: object) -> bool:
    """Whether a field with this in its annotation can be given as text, too."""
    return isinstance(entry, BeforeValidator | WrapValidator) or getattr(entry, "strict", None) is False


def _plain(annotation: Any) -> Any:
    """A type without what `typing.Annotated` adds to it."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return reduce(or_, map(_plain, get_args(annotation)))
    if get_origin(annotation) is list:
        return list[_plain(get_args(annotation)[0])]  # type: ignore[misc]
    return int if annotation is ByteSize else annotation


def _documented(text: str, model: type[Options]) -> str:
    """A docstring whose ``Args:`` go on with the fields of a model."""
    described = "\n".join(f"    {name}: {_indented(words)}" for name, words in _attributes(model).items())
    before, args, after = re.split(r"(^Args:\n(?:    .*\n)*)", text + "\n", maxsplit=1, flags=re.MULTILINE)
    return f"{before}{args}{described}\n{after}".rstrip()


def _indented(text: str) -> str:
    return text.replace("\n", "\n        ")


def _attributes(model: type[Options]) -> dict[str, str]:
    """What the docstrings of a model and its bases say of its fields, by name in the fields' order."""
    found: dict[str, str] = {}
    for base in model.__mro__:
        section = re.search(r"^Attributes:\n((?:    .*\n?)+)", inspect.cleandoc(base.__doc__ or ""), re.MULTILINE)
        for name, words in re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.MULTILINE):
            found.setdefault(name, re.sub(r"\n *", "\n", words))
    return {name: found[name] for name in model.model_fields if name in found}
