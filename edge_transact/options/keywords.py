"""Functions whose keyword arguments are the fields of a model: typed, documented and checked as those."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from functools import reduce, wraps
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Concatenate, Generic, ParamSpec, TypeVar, Union, get_args, get_origin, overload

from pydantic import BaseModel, BeforeValidator, ByteSize, WrapValidator

from edge_transact.options import Options, metadata_of, text_of

Subject = TypeVar("Subject")
Fields = ParamSpec("Fields")
Call = TypeVar("Call", bound=Options)
Result = TypeVar("Result")
Some = TypeVar("Some", bound=Options)


class keywords(Generic[Fields, Call]):
    """Decorates a function whose last parameter is ``options``, a model, so that it takes the model's fields instead.

    Checkers see the parameters of the model's constructor; editors see the fields with their help among ``Args:``.
    """

    def __init__(self, model: Callable[Fields, Call]) -> None:
        self._model: Any = model

    @overload
    def __call__(
        self, function: Callable[[Subject, str | Path, Call], Result]
    ) -> Callable[Concatenate[Subject, str | Path, Fields], Result]: ...
    @overload
    def __call__(
        self, function: Callable[[Subject, Call], Result]
    ) -> Callable[Concatenate[Subject, Fields], Result]: ...
    @overload
    def __call__(self, function: Callable[..., Result]) -> Callable[..., Result]: ...
    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        own = list(signature.parameters.values())[:-1]

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            named = {each.name: options.pop(each.name) for each in own if each.name in options}
            given = inspect.Signature(own).bind(*arguments, **named)
            return function(*given.args, options=self._model(**options))

        call.__doc__ = _documented(inspect.cleandoc(function.__doc__ or ""), self._model)
        # inspect and all that show a signature look for it before anything else.
        call.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *signature_of(self._model).parameters.values()]
        )
        return call


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
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return reduce(or_, map(_plain, get_args(annotation)))
    if get_origin(annotation) is list:
        return list[_plain(get_args(annotation)[0])]  # type: ignore[misc]
    return int if annotation is ByteSize else annotation


def _documented(text: str, model: type[Options]) -> str:
    """A docstring that ends in ``Args:`` and ``Raises:``, with the fields of a model among its ``Args:``."""
    before, raises, errors = text.partition("\n\nRaises:")
    fields = [
        textwrap.fill(f"{name}: {text_of(field)}", 110, initial_indent=" " * 4, subsequent_indent=" " * 8)
        for name, field in model.model_fields.items()
    ]
    return "\n".join([before, *fields]) + raises + errors
