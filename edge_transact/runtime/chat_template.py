"""Chat templates: Jinja programs that turn the messages of a conversation into a prompt.

The environment is that of transformers' ``apply_chat_template``, whose import takes seconds.
"""

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
    """The prompt up to the beginning of the assistant's next answer.

    Args:
        template: The chat template.
        messages: The conversation.
        special_tokens: The tokenizer's, by name: ``bos_token``, ``eos_token``, ...
        answers_next: Whether the assistant's answer begins at the end. If not, the text ends with the last message.

    Raises:
        EdgeTransactError: The template refuses the conversation, or isn't a valid one.
    """
    from jinja2 import TemplateError

    try:
        return _compiled(template).render(
            messages=list(messages), tools=None, documents=None, add_generation_prompt=answers_next, **special_tokens
        )
    except TemplateError as error:
        raise EdgeTransactError(
            f"the model's chat template refuses the conversation: {error}",
            fix="Its chat_template says which roles it takes, in which order.",
        ) from error


@cache
def _compiled(template: str) -> Template:
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks what the assistant says, for training; here it is the text alone."""

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
