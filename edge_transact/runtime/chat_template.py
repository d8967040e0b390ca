"""Chat templates: prompts from messages, as transformers' ``apply_chat_template``, whose import takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from edge_transact.errors import EdgeTransactError

if TYPE_CHECKING:
    from jinja2 import Template

Message = dict[str, str]
"""``{"role": "system" | "user" | "assistant", "content": text}``."""


def render_chat(
    template: str, messages: Sequence[Message], special_tokens: Mapping[str, str], *, answers_next: bool = True
) -> str:
    """The prompt up to the beginning of the assistant's next answer; up to the last message without `answers_next`.

    `special_tokens` are the tokenizer's, by name: ``bos_token``, ``eos_token``, ...

    Raises:
        EdgeTransactError: The template is invalid, or rejects the conversation.
    """
    from jinja2 import TemplateError

    try:
        return _compiled(template).render(
            messages=list(messages), tools=None, documents=None, add_generation_prompt=answers_next, **special_tokens
        )
    except TemplateError as error:
        raise EdgeTransactError(
            f"the model's chat template rejects the conversation: {error}",
            fix="Its chat_template defines which roles are allowed, and in which order.",
        ) from error


@cache
def _compiled(template: str) -> Template:
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
