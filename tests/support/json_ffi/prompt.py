"""The prompt of a request: what `CreatePrompt` of MLC's ``cpp/json_ffi/conv_template.cc`` makes of text messages."""

from collections.abc import Sequence
from typing import Any

Part = str | list[int]
"""Text, or token ids."""


def create_prompt(template: dict[str, Any], messages: Sequence[dict[str, Any]]) -> list[Part]:
    """The parts of a prompt, up to the beginning of the assistant's answer; `template` is the ``conv_template``."""
    messages = [*({"role": role, "content": content} for role, content in template["messages"]), *messages]
    system = "".join(message["content"] for message in messages if message["role"] == "system")
    text = template["system_template"].replace("{system_message}", system or template["system_message"], 1)
    seps, count = template["seps"], 0
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "system":
            continue
        if role not in template["roles"]:
            raise ValueError(f'Role "{role}" is not supported')
        count += 1
        if template["add_role_after_system_message"] or not text or count != 1:
            text += template["roles"][role] + template["role_content_sep"]
        role_template = template.get("role_templates", {}).get(role, f"{{{role}_message}}")
        text += role_template.replace(f"{{{role}_message}}", content, 1)
        text += seps[(1 if role == "assistant" else 0) % len(seps)]
    text += template["roles"]["assistant"] + template["role_empty_sep"]
    ids = template.get("system_prefix_token_ids")
    return [*([list(ids)] if ids is not None else []), *([text] if text else [])]
