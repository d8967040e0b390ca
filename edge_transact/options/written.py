"""Options as a person would write them on the command line."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from typing import Any

from edge_transact.options import COMMAS, Options, description_of, flag_of, options_of


def words(options: Options, *, apart_from: Collection[str] = ()) -> list[str]:
    """The words that give a command these options, without those at their defaults and the fields `apart_from`."""
    given = options.model_fields_set - set(apart_from)
    return [
        word
        for name, flag, value, _ in _written(options)
        if name in given and getattr(options, name) != type(options).model_fields[name].get_default()
        for word in ([flag, value] if value else [flag])
    ]


def rows(options: Options) -> list[tuple[str, str, str]]:
    return [(flag, value, text) for _, flag, value, text in _written(options)]


def line(command: str, *words: object) -> str:
    """A line for a shell: ``edge-transact COMMAND`` with these words, quoted where they need it."""
    return shlex.join(["edge-transact", command, *map(str, words)])


def _written(options: Options) -> Iterator[tuple[str, str, str, str]]:
    """Field, flag, value and description; once for each value where a flag is repeated."""
    for name, field, option in options_of(type(options)):
        value: Any = getattr(options, name)
        flag, negative = flag_of(name, option), "".join(option.flags[:1]).partition("/")[2]
        text = description_of(field, option)
        if isinstance(value, bool):
            if value or negative:
                yield name, flag if value else negative, "", text
        elif isinstance(value, list) and COMMAS not in field.metadata:
            for entry in value:
                yield name, flag, str(entry), text
        elif isinstance(value, (list, tuple)):
            if value:
                yield name, flag, ",".join(map(str, value)), text
        elif value is not None and value != "":
            yield name, flag, str(value), text
