"""The Jinja templates of output files: ``templates/`` next to the package, or inside it in a wheel."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_PACKAGE = Path(__file__).resolve().parents[1]
TEMPLATE_DIRECTORIES = (_PACKAGE / "templates", _PACKAGE.parent / "templates")
"""The templates of an installed wheel, and those of a source tree."""


@cache
def environment() -> Environment:
    """Jinja's environment of all templates: a variable that is missing is an error, and HTML escapes what it shows."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    made = Environment(
        loader=FileSystemLoader(TEMPLATE_DIRECTORIES),
        undefined=StrictUndefined,
        autoescape=select_autoescape(("html.j2",), default=False),
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"markdown": markdown, "python": python_string}
    return made


def markdown(text: object) -> str:
    """The text on one line of Markdown, which shows it as it is: no markup, no HTML, no invisible characters."""
    shown = re.sub(r"([\\`*_{}\[\]<>&#|~$!@])", r"\\\1", " ".join(str(text).split()))
    return "".join(each if each.isprintable() else f"\\\\u{ord(each):04x}" for each in shown)


def python_string(text: str) -> str:
    """The text as a string of Python, with escapes of what nobody sees."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in quoted)


def template(name: str) -> Template:
    """The template `name`, a path relative to ``templates/``. Rendering fails if a variable is missing."""
    return environment().get_template(name)
