"""The program of the process that renders chat templates: jinja2 alone, with limits of time and memory.

It runs by itself, with nothing of this package: requests and replies are lines of JSON on stdin and stdout.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

CPU_S = 5

MEMORY_BYTES = 512 << 20
"""The most memory of the process, about 40 MB of which Python needs."""

MOST_CHARACTERS = 32_000_000


def limit_all() -> None:
    """Limits memory, and forbids files, programs and core dumps; systems lack some of these limits."""
    try:
        import resource
    except ImportError:
        return
    limits = {"AS": MEMORY_BYTES, "DATA": MEMORY_BYTES, "FSIZE": 0, "NPROC": 0, "CORE": 0}
    for name, limit in limits.items():
        try:
            number = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(number, (limit, limit))
        except (AttributeError, ValueError, OSError):
            continue


def limit_time() -> None:
    """Lets the system end the process `CPU_S` seconds of computing from now."""
    try:
        import resource
    except ImportError:
        return  # the one who asks ends it
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft, hard = int(used.ru_utime + used.ru_stime) + CPU_S, resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


@cache
def compiled(template: str) -> Template:
    """A template as transformers compiles it (``utils/chat_template_utils.py``)."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's text for training; here it has no effect."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: object, **options: Any) -> str:
        # Jinja's own filter escapes HTML.
        return json.dumps(value, **{"ensure_ascii": False} | options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    functions: dict[str, Callable[..., object]] = {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    environment.globals |= functions
    environment.filters["tojson"] = tojson
    return environment.from_string(template)


def reply(request: dict[str, Any]) -> dict[str, str]:
    """``{"text": ...}``, or ``{"refused": why}`` of a template's own errors, or ``{"failed": why}`` of others."""
    from jinja2.exceptions import TemplateError, TemplateSyntaxError

    limit_time()
    try:
        text = compiled(request["template"]).render(**request["variables"])
        text.encode()  # half a character is no text of a tokenizer's
    except Exception as error:
        refused = isinstance(error, TemplateError) and not isinstance(error, TemplateSyntaxError)
        named = (
            str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}".removesuffix(": ")
        )
        return {"refused" if refused else "failed": named[:500]}
    if len(text) > MOST_CHARACTERS:
        return {"failed": f"it makes a text of {len(text):,} characters"}
    return {"text": text}


def main() -> None:
    sys.path += sys.argv[1:]  # where jinja2 is
    import jinja2.sandbox  # noqa: F401

    limit_all()
    for line in sys.stdin:
        try:
            answer = json.dumps(reply(json.loads(line)))
        except (MemoryError, RecursionError) as error:
            answer = json.dumps({"failed": type(error).__name__})
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
