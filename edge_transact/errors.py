"""The errors that users see.

Every failure that a user can cause or fix is an `EdgeTransactError`; any other exception is a bug, whose traceback
``--debug`` shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class EdgeTransactError(Exception):
    """A failure, and what to do about it.

    Args:
        message: What is wrong, with the offending value.
        fix: What to do next, as a sentence or a command; empty if there is nothing to do.
    """

    exit_code = 1

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class UsageError(EdgeTransactError):
    """Wrong usage: options that contradict each other, values out of range (exit code 2)."""

    exit_code = 2


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The fix for a name that isn't among `choices`: the closest choice, then all of them."""
    choices = list(choices)
    question = closest(name, choices)
    return f"{question}{' ' if question else ''}There are: {', '.join(choices)}."


def closest(name: str, choices: Iterable[str]) -> str:
    """``Did you mean ...?`` with the closest of `choices`, or an empty string if none is close."""
    # Imported here because difflib takes a tenth of the time of a start-up's imports.
    from difflib import get_close_matches

    close = get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else ""


def first_problem(error: ValidationError) -> str:
    """The first problem that pydantic found in a record, on one line: field, value and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))[:200]
    if where and first["type"] not in ("missing", "value_error"):
        import reprlib

        where += f" is {reprlib.repr(first['input'])}"
    problem = first["msg"].removeprefix("Value error, ")
    return f"{where}: {problem}" if where else problem
