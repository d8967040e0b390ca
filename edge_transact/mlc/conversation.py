"""MLC's conversation template for a model: what its tokenizer's chat template says, as MLC can say it.

MLC renders a prompt as: the system template, then for each message its role, `role_content_sep`, the text and a
separator, then the assistant's role and `role_empty_sep` (``mlc_llm/protocol/conversation_protocol.py``). Chat
templates are programs, so they can't be translated; the families that LLaMA models use are known by their markers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_transact.runtime.text import TextCodec

DEFAULT_SYSTEM_MESSAGE = "You are a helpful assistant."
"""For models whose chat template has none: MLC writes a system part always."""


@dataclass(frozen=True)
class _Family:
    """A prompt format.

    Attributes:
        name: MLC's name for it.
        markers: All of these are in the chat template.
        system_template: Around the system message; ``{bos}`` is the tokenizer's BOS, as in the other fields.
        user, assistant, tool: What a message begins with.
        seps: After a user's message, and after an assistant's where that differs.
        role_content_sep: Between a role and its text.
        role_empty_sep: After the assistant's role, where its answer begins.
        stop_str: What ends an answer.
        merged_system: The system part stands inside the first user message, which has no role of its own then.
    """

    name: str
    markers: tuple[str, ...]
    system_template: str
    user: str
    assistant: str
    tool: str
    seps: tuple[str, ...]
    role_content_sep: str
    role_empty_sep: str
    stop_str: tuple[str, ...]
    merged_system: bool = False


_FAMILIES = (
    _Family(
        name="chatml",
        markers=("<|im_start|>", "<|im_end|>"),
        system_template="<|im_start|>system\n{system_message}<|im_end|>\n",
        user="<|im_start|>user",
        assistant="<|im_start|>assistant",
        tool="<|im_start|>tool",
        seps=("<|im_end|>\n",),
        role_content_sep="\n",
        role_empty_sep="\n",
        stop_str=("<|im_end|>",),
    ),
    _Family(
        name="llama-3",
        markers=("<|start_header_id|>", "<|eot_id|>"),
        system_template="{bos}<|start_header_id|>system<|end_header_id|>\n\n{system_message}<|eot_id|>",
        user="<|start_header_id|>user",
        assistant="<|start_header_id|>assistant",
        tool="<|start_header_id|>ipython",
        seps=("<|eot_id|>",),
        role_content_sep="<|end_header_id|>\n\n",
        role_empty_sep="<|end_header_id|>\n\n",
        stop_str=("<|eot_id|>",),
    ),
    _Family(
        name="llama-2",
        markers=("[INST]", "<<SYS>>"),
        system_template="{bos}[INST] <<SYS>>\n{system_message}\n<</SYS>>\n\n",
        user="{bos}[INST]",
        assistant="[/INST]",
        tool="[INST]",
        seps=(" ", " {eos}"),
        role_content_sep=" ",
        role_empty_sep="",
        stop_str=("[INST]",),
        merged_system=True,
    ),
    _Family(
        name="tinyllama_v1_0",
        markers=("<|user|>", "<|assistant|>"),
        system_template="<|system|>\n{system_message}{eos}\n",
        user="<|user|>",
        assistant="<|assistant|>",
        tool="<|user|>",
        seps=("{eos}\n",),
        role_content_sep="\n",
        role_empty_sep="\n",
        stop_str=(),
    ),
)

_PLAIN = _Family("LM", (), "{system_message}", "", "", "", ("",), "", "", ())


def conversation_template(checkpoint: Path, eos_token_ids: Sequence[int]) -> dict[str, Any]:
    """``conv_template`` of ``mlc-chat-config.json``, all of its fields.

    A model without a chat template continues plain text; so does one whose template is of no known family. `plain_note`
    says which.

    Args:
        checkpoint: A checkpoint directory with its tokenizer.
        eos_token_ids: What ends the model's text.

    Raises:
        EdgeTransactError: There is no tokenizer.
    """
    tokenizer = TextCodec(checkpoint).tokenizer
    family = _family(_chat_template(tokenizer))
    named = {"{bos}": tokenizer.bos_token or "", "{eos}": tokenizer.eos_token or ""}

    def text(template: str) -> str:
        for key, token in named.items():
            template = template.replace(key, token)
        return template

    stop_str = [text(stop) for stop in family.stop_str]
    stop_ids = [tokenizer.convert_tokens_to_ids(stop) for stop in stop_str if stop in tokenizer.get_vocab()]
    # A plain model's text begins with what its tokenizer puts before every text: BOS, or nothing.
    adds_bos = family is _PLAIN and tokenizer.bos_token_id in tokenizer("")["input_ids"]
    return {
        "name": family.name,
        "system_template": text(family.system_template),
        "system_message": "" if family is _PLAIN else _system_message(tokenizer, text(family.system_template)),
        **({"system_prefix_token_ids": [tokenizer.bos_token_id]} if adds_bos else {}),
        "add_role_after_system_message": not family.merged_system,
        "roles": {"user": text(family.user), "assistant": text(family.assistant), "tool": text(family.tool)},
        "role_templates": {
            "user": "{user_message}",
            "assistant": "{assistant_message}",
            "tool": "{tool_message}",
        },
        "messages": [],
        "seps": [text(sep) for sep in family.seps],
        "role_content_sep": text(family.role_content_sep),
        "role_empty_sep": text(family.role_empty_sep),
        "stop_str": stop_str,
        "stop_token_ids": sorted({*eos_token_ids, *stop_ids}),
        "function_string": "",
        "use_function_calling": False,
    }


def plain_note(checkpoint: Path) -> str | None:
    """Why `conversation_template` is a plain one, for people; `None` where it isn't."""
    chat_template = _chat_template(TextCodec(checkpoint).tokenizer)
    if not chat_template:
        return "The tokenizer has no chat template: the model continues text, in an MLC app too (its template LM)."
    if _family(chat_template) is _PLAIN:
        return (
            "The chat template is of no family that MLC knows: mlc-chat-config.json gets a plain one. "
            "Edit its conv_template before chatting in an MLC app."
        )
    return None


def _chat_template(tokenizer: Any) -> str:
    chat_template = tokenizer.chat_template or ""
    if isinstance(chat_template, dict):
        chat_template = chat_template.get("default", next(iter(chat_template.values())))
    return chat_template


def _family(chat_template: str) -> _Family:
    for family in _FAMILIES:
        if all(marker in chat_template for marker in family.markers):
            return family
    return _PLAIN


def _system_message(tokenizer: Any, system_template: str) -> str:
    """What the chat template says when the conversation has no system message of its own."""
    before, after = system_template.split("{system_message}")
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    if not rendered.startswith(before) or after not in rendered:
        return DEFAULT_SYSTEM_MESSAGE
    return rendered[len(before) : rendered.index(after, len(before))]
