"""The reference entries of ``docs/cli.md``, made from the commands' options."""

from __future__ import annotations

import itertools
import re
import textwrap
from typing import Any

from edge_transact.cli import COMMANDS, load_command
from edge_transact.cli.command import ANYWHERE, EXAMPLES

LINE = 120


def entries() -> str:
    """Each command with its arguments and options, in the order of ``--help``."""
    return "\n\n".join(_entry(name) for name in COMMANDS)


def anywhere() -> str:
    """The options that every command has."""
    name = next(iter(COMMANDS))
    return _table(name, [param for param in load_command(name).params if _panel(param) == ANYWHERE])


def _entry(name: str) -> str:
    command = load_command(name)
    description = (command.help or "").partition(EXAMPLES)[0].strip()
    own = [param for param in command.params if _panel(param) != ANYWHERE]
    return "\n\n".join([f"## {name}", *map(_wrapped, description.split("\n\n")), _table(name, own)])


def _table(name: str, params: list[Any]) -> str:
    """Arguments and options, those of a panel of ``--help`` together."""
    context = load_command(name).make_context(name, [], resilient_parsing=True)
    rows = ["| | |", "|---|---|"]
    first_of = {panel: number for number, panel in reversed(list(enumerate(map(_panel, params))))}
    grouped = sorted(params, key=lambda param: (_panel(param) != "", first_of[_panel(param)]))
    for panel, members in itertools.groupby(grouped, key=_panel):
        rows += [f"| **{panel}** | |"] if panel and panel != ANYWHERE else []
        for param in members:
            declared, text = (part.replace("|", "\\|") for part in param.get_help_record(context))
            rows.append(f"| `{declared}` | {_with_default(text)} |")
    return "\n".join(rows)


def _with_default(text: str) -> str:
    """What ``--help`` has in brackets at the end, in parentheses."""
    text, _, default = text.rpartition("  [") if text.endswith("]") else (text, "", "")
    default = re.sub(r"default: \((.*?)\)(?=; |$)", r"default: \1", default.removesuffix("]"))
    return f"{text} *({default})*" if default else text


def _panel(param: Any) -> str:
    return getattr(param, "rich_help_panel", None) or ""


def _wrapped(paragraph: str) -> str:
    text = " ".join(paragraph.split())
    return textwrap.fill(text, LINE, break_on_hyphens=False, break_long_words=False)
