"""The Jinja templates that output files are rendered from: ``templates/`` beside the package, or inside a wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment, Template

_PACKAGE = Path(__file__).resolve().parents[1]
TEMPLATE_DIRECTORIES = (_PACKAGE / "templates", _PACKAGE.parent / "templates")
"""Where templates lie in an installed wheel and in a source tree."""


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(TEMPLATE_DIRECTORIES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def template(name: str) -> Template:
    """The template `name`, a path relative to ``templates/``; a variable that is not given is an error.

    Raises:
        jinja2.TemplateNotFound: There is none of that name.
    """
    return _environment().get_template(name)
