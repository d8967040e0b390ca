"""What typer lacks for commands: examples in their help, global flags after their name, guesses of options."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from typer.core import TyperCommand

EXAMPLES = "**Examples**"

RUN, ANYWHERE = "This run", "With any command"
"""The last panels of each command's help: options that no result depends on, and the global flags."""

_WORD = re.compile(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""")


class Command(TyperCommand):
    """A command whose examples can be pasted from its help, whose flags have no type, and that guesses options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # The nearest is first; click sorts them by the alphabet.
            if close := list(getattr(error, "possibilities", None) or ()):
                names = " or ".join(filter(None, (", ".join(close[:-1]), close[-1])))
                error.message += f". Did you mean {names}?"  # type: ignore[attr-defined]
                error.possibilities = None  # type: ignore[attr-defined]
            raise

    def get_params(self, ctx: Any) -> list[Any]:
        params = without_types_of_flags(super().get_params(ctx))
        for param in params:
            if param.name == "help":
                param.rich_help_panel = RUN
        return params

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """What the command does, examples, and then usage, details and options as typer prints them."""
        from rich.console import Console
        from rich.markdown import Markdown
        from rich.padding import Padding
        from rich.text import Text

        text = self.help or ""
        description, _, examples = text.partition(EXAMPLES)
        summary, _, self.help = description.strip().partition("\n\n")
        console = Console(highlight=False)
        console.print(Padding(Markdown(summary), 1))
        for example in re.findall(r"^`(.*)`$", examples, re.MULTILINE):
            # No padding up to the edge: after a backslash, a space would end the command.
            console.print(Text(pasteable(example, console.width)), soft_wrap=True)
        try:
            super().format_help(ctx, formatter)
        finally:
            self.help = text


def without_types_of_flags(params: list[Any]) -> list[Any]:
    """The parameters, of which flags show no ``<bool>``."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def pasteable(line: str, width: int | None = None) -> str:
    """A shell line on several lines of at most `width` columns, which mean the same to a shell when they are pasted."""
    width = width or shutil.get_terminal_size().columns
    lines, words = [], _WORD.findall(line)
    current = f" {words[0]}"
    for word in words[1:]:
        if len(current) + len(word) + len("  \\") > width:
            lines.append(f"{current} \\")
            current = f"    {word}"
        else:
            current += f" {word}"
    return "\n".join([*lines, current])


def everywhere(switches: Any, names: dict[str, Callable[[], None]]) -> Iterator[Any]:
    """The global flags among the group's `switches` as a command's own options; `names` has what each flag does."""
    for param in switches:
        if param.name in names:
            own = copy.copy(param)
            own.expose_value = False
            own.rich_help_panel = ANYWHERE
            own.callback = lambda ctx, param, given: names[param.name]() if given else None
            yield own
