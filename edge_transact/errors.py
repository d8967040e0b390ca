"""The errors that people see.

Every failure that a user can cause or mend is an `EdgeTransactError`: one sentence that says what is wrong and which
value, and one that says what to do next. The command line prints these two and exits with `exit_code`; anything else is
a bug and keeps its traceback under ``--debug``.
"""

from __future__ import annotations

from collections.abc import Iterable


class EdgeTransactError(Exception):
    """A failure with a way out.

    Args:
        message: What is wrong, with the offending value.
        fix: What to do next, a sentence or a command; may be empty when there is nothing to do.
    """

    exit_code = 1

    def __init__(self, message: str, *, fix: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


class UsageError(EdgeTransactError):
    """The command was called wrongly: options that contradict, values out of range (exit code 2)."""

    exit_code = 2


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A fix for a name that isn't among `choices`: the one that was probably meant, and all that there are."""
    choices = list(choices)
    question = closest(name, choices)
    return f"{question}{' ' if question else ''}There are: {', '.join(choices)}."


def closest(name: str, choices: Iterable[str]) -> str:
    """``Did you mean ...?`` with the nearest of `choices`; empty where none is near."""
    # difflib takes a tenth of a start-up's imports and is needed only here.
    from difflib import get_close_matches

    close = get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else ""
