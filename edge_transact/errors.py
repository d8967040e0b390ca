"""The errors that people see.

Every failure that a user can cause or mend is an `EdgeTransactError`: one sentence that says what
is wrong and which value, and one that says what to do next. The command line prints these two and
exits with `exit_code`; anything else is a bug and keeps its traceback under ``--debug``.
"""


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
