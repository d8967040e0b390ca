"""The reference entries of ``docs/api.md``, made from the signatures and docstrings of what is public."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from pydantic import BaseModel

import edge_transact
from edge_transact.options import text_of
from edge_transact.options.keywords import signature_of

SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises")
INDENTED = re.compile(r"^(\w+): ", re.MULTILINE)
LINE = 100


def entry(path: str) -> str:
    """The Markdown of one public object.

    Args:
        path: ``package.module.name`` of a function or class, or ``package.module`` for all functions of a module.
    """
    found = _find(path)
    if inspect.ismodule(found):
        functions = [value for _, value in _members(found) if inspect.isfunction(value)]
        return "\n\n".join(
            [_prose(found), *(_function(value, f"{value.__module__}.{value.__name__}") for value in functions)]
        )
    return _class(found, path) if inspect.isclass(found) else _function(found, path)


def _find(path: str) -> Any:
    try:
        return import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition(".")
        return getattr(import_module(module), name)


def _class(cls: type, path: str) -> str:
    parts = [_heading(path, _signature(cls, cls.__name__, skip_first=False)), _prose(cls)]
    fields = getattr(cls, "model_fields", {})
    if described := [f"- `{name}`: {text_of(field)}" for name, field in fields.items() if text_of(field)]:
        parts.append("\n".join(_wrapped(line) for line in described))
    for name, member in _members(cls):
        if isinstance(member, property):
            parts.append(f"**`.{name}`** (property)\n\n{_prose(member)}")
        elif callable(member) or isinstance(member, classmethod | staticmethod):
            bound = not isinstance(member, classmethod | staticmethod)
            function = getattr(member, "__func__", member)
            signature = _signature(function, name, skip_first=bound or isinstance(member, classmethod))
            parts.append(f"**`.{name}`**\n\n```py\n{signature}\n```\n\n{_prose(function)}")
    return "\n\n".join(parts)


def _function(function: Callable[..., Any], path: str) -> str:
    return f"{_heading(path, _signature(function, function.__name__))}\n\n{_prose(function)}"


def _heading(path: str, signature: str) -> str:
    module, _, name = path.rpartition(".")
    shown = f"et.{name}" if hasattr(edge_transact, name) else f"from {module} import {name}"
    return f"### {name}\n\n`{shown}`\n\n```py\n{signature}\n```"


def _members(owner: Any) -> Iterator[tuple[str, Any]]:
    """The documented public members that `owner` defines itself, in order."""
    for name, value in list(vars(owner).items()):
        function = getattr(value, "__func__", getattr(value, "fget", value))
        here = owner.__name__ if inspect.ismodule(owner) else owner.__module__
        if (
            not name.startswith("_")
            and inspect.isfunction(function)
            and function.__module__ == here
            and function.__doc__
        ):
            yield name, value


def _signature(function: Callable[..., Any], name: str, *, skip_first: bool = False) -> str:
    # pydantic makes a model's own signature on first use, and until then shows that of its base.
    is_model = inspect.isclass(function) and issubclass(function, BaseModel)
    signature = signature_of(function) if is_model else inspect.signature(function)
    if skip_first:
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    if inspect.isclass(function):
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    parameters = [
        each.replace(default=...) if _is_long(each.default) else each for each in signature.parameters.values()
    ]
    signature = signature.replace(parameters=parameters)
    # Annotations are strings, since modules postpone their evaluation: they are shown without quotes.
    text = name + re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(signature)).replace("= Ellipsis", "= ...")
    text = re.sub(r"((?:: |\| |\[)(?:\w+\.)+)(?=[A-Z])", lambda found: re.sub(r"(?:\w+\.)+", "", found[0]), text)
    if len(text) <= LINE:
        return text
    inside, _, returned = text.partition("(")[2].rpartition(")")
    lines = "".join(f"    {parameter},\n" for parameter in _split(inside))
    return f"{name}(\n{lines}){returned}"


def _is_long(default: object) -> bool:
    """Whether a default says little to a reader: a function, or a list of many things."""
    return inspect.isfunction(default) or len(repr(default)) > LINE // 2


def _split(parameters: str) -> Iterator[str]:
    """Parameters at the top level of a signature."""
    depth, start = 0, 0
    for index, character in enumerate(parameters):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            yield parameters[start:index].strip()
            start = index + 1
    yield parameters[start:].strip()


def _prose(documented: Any) -> str:
    """A Google-style docstring as Markdown: its sections are lists."""
    text = _code(inspect.getdoc(documented) or "")
    pieces = re.split(rf"^({'|'.join(SECTIONS)}):\n", text, flags=re.MULTILINE)
    parts = [_paragraphs(pieces[0])]
    for title, body in zip(pieces[1::2], pieces[2::2], strict=True):
        listed, _, after = body.partition("\n\n")
        parts.append(f"{title}:\n\n{_list(textwrap.dedent(listed))}")
        if after.strip():
            parts.append(_paragraphs(textwrap.dedent(after)))
    return "\n\n".join(filter(None, parts))


def _paragraphs(text: str) -> str:
    return "\n\n".join(_wrapped(" ".join(part.split())) for part in text.strip().split("\n\n") if part.strip())


def _list(body: str) -> str:
    items = [" ".join(item.split()) for item in re.split(r"\n(?=\S)", body.strip())]
    return "\n".join(_wrapped("- " + INDENTED.sub(r"`\1`: ", item, count=1)) for item in items)


def _code(text: str) -> str:
    return text.replace("``", "`")


def _wrapped(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
