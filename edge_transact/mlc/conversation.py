"""MLC's conversation template for a model, derived from its tokenizer's chat template.

MLC renders the system template, then for each message its role, `role_content_sep`, the text and a separator, then the
assistant's role and `role_empty_sep` (``mlc_llm/protocol/conversation_protocol.py``). Chat templates are programs and
can't be translated, so the families of LLaMA models are recognized by their markers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_transact.runtime.chat_template import Message, TemplateRefusal, default_template, render_row
from edge_transact.runtime.text import TextCodec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEFAULT_SYSTEM_MESSAGE = "You are a helpful assistant."
"""Used if the chat template has none, because MLC always writes a system part."""

_QUESTION: Sequence[Message] = [{"role": "user", "content": "?"}]
_ASKED = "SYSTEM-MESSAGE"
"""A system message whose place in a rendered conversation is looked up."""

ROLES = ("user", "assistant", "tool")


@dataclass(frozen=True)
class _Family:
    """A prompt format of MLC, for chat templates with all `markers`. ``{bos}`` and ``{eos}`` are the tokenizer's.

    With `merged_system`, the system part is inside the first user message, which then has no role. MLC's engine removes
    reasoning from earlier answers where `strips_reasoning` says that the chat template does.
    """

    name: str
    markers: tuple[str, ...]
    system_template: str
    roles: tuple[str, str, str]
    """Of the user, the assistant and tools."""
    seps: tuple[str, ...]
    role_sep: str
    """Between a role and its message."""
    stop_str: tuple[str, ...]
    merged_system: bool = False
    strips_reasoning: bool = False


_CHATML = _Family(
    name="chatml",
    markers=("<|im_start|>", "<|im_end|>"),
    system_template="<|im_start|>system\n{system_message}<|im_end|>\n",
    roles=("<|im_start|>user", "<|im_start|>assistant", "<|im_start|>tool"),
    seps=("<|im_end|>\n",),
    role_sep="\n",
    stop_str=("<|im_end|>",),
)
_MISTRAL = _Family(
    name="mistral_default",
    markers=("[INST] ", "[/INST]"),
    system_template="{bos}[INST] {system_message}\n\n",
    roles=("[INST]", "[/INST]", "[INST]"),
    seps=("", "{eos}"),
    role_sep=" ",
    stop_str=("{eos}",),
    merged_system=True,
)
_PHI_4 = _Family(
    name="phi-4",
    markers=("<|end|>", "<|assistant|>"),
    system_template="<|system|>{system_message}<|end|>",
    roles=("<|user|>", "<|assistant|>", "<|tool|>"),
    seps=("<|end|>",),
    role_sep="",
    stop_str=("<|end|>",),
)
_USER, _ASSISTANT = "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"
_R1 = _Family(
    name="deepseek_r1_qwen",
    markers=(_USER,),
    system_template="{bos}{system_message}",
    roles=(_USER, _ASSISTANT, _USER),
    seps=("", "{eos}"),
    role_sep="",
    stop_str=("{eos}",),
    strips_reasoning=True,
)

_FAMILIES = (
    replace(_CHATML, name="qwen3", markers=(*_CHATML.markers, "split('</think>')"), strips_reasoning=True),
    _CHATML,
    _Family(
        name="llama-3",
        markers=("<|start_header_id|>", "<|eot_id|>"),
        system_template="{bos}<|start_header_id|>system<|end_header_id|>\n\n{system_message}<|eot_id|>",
        roles=("<|start_header_id|>user", "<|start_header_id|>assistant", "<|start_header_id|>ipython"),
        seps=("<|eot_id|>",),
        role_sep="<|end_header_id|>\n\n",
        stop_str=("<|eot_id|>",),
    ),
    _Family(
        name="llama-2",
        markers=("[INST]", "<<SYS>>"),
        system_template="{bos}[INST] <<SYS>>\n{system_message}\n<</SYS>>\n\n",
        roles=("{bos}[INST]", "[/INST]", "[INST]"),
        seps=(" ", " {eos}"),
        role_sep=" ",
        stop_str=("[INST]",),
        merged_system=True,
    ),
    replace(_MISTRAL, markers=("[INST] ", " [/INST]"), seps=(" ", "{eos}")),  # v0.2
    _MISTRAL,
    replace(_MISTRAL, markers=("[INST]",), system_template="{bos}[INST]{system_message}\n\n", role_sep=""),  # Nemo
    _R1,
    replace(
        _PHI_4,
        name="phi-3",
        markers=("<|user|>", "<|end|>"),
        system_template="<|system|>\n{system_message}<|end|>\n",
        seps=("<|end|>\n",),
        role_sep="\n",
    ),
    _PHI_4,
    _Family(
        name="tinyllama_v1_0",
        markers=("<|user|>", "<|assistant|>"),
        system_template="<|system|>\n{system_message}{eos}\n",
        roles=("<|user|>", "<|assistant|>", "<|user|>"),
        seps=("{eos}\n",),
        role_sep="\n",
        stop_str=(),
    ),
)

_PLAIN = _Family("LM", (), "{system_message}", ("", "", ""), ("",), "", ())


def conversation_template(
    checkpoint: Path, eos_token_ids: Sequence[int], ends: Sequence[str] = ()
) -> dict[str, object]:
    """``conv_template`` of ``mlc-chat-config.json``, with all fields, given the ids and the tokens that end an answer.

    It continues plain text if the model has no chat template, or one of no known family; `plain_note` says which.
    """
    tokenizer = TextCodec(checkpoint).tokenizer
    family = _family(_chat_template(tokenizer))
    named = {"{bos}": tokenizer.bos_token or "", "{eos}": tokenizer.eos_token or ""}

    def text(template: str) -> str:
        for key, token in named.items():
            template = template.replace(key, token)
        return template

    stop_str, vocabulary = [text(stop) for stop in family.stop_str], tokenizer.get_vocab()
    stop_ids = [tokenizer.convert_tokens_to_ids(stop) for stop in (*stop_str, *ends) if stop in vocabulary]
    # A plain model's text begins with BOS if its tokenizer adds it to every text.
    adds_bos = family is _PLAIN and tokenizer.bos_token_id in tokenizer("")["input_ids"]
    system, before_answer = text(family.system_template), ""
    if family is not _PLAIN:
        system, before_answer = _system_template(tokenizer, system), _before_answer(tokenizer, family)
    return {
        "name": family.name,
        "system_template": system,
        "system_message": "" if family is _PLAIN else _system_message(tokenizer, system),
        **({"system_prefix_token_ids": [tokenizer.bos_token_id]} if adds_bos else {}),
        "add_role_after_system_message": not family.merged_system,
        "roles": dict(zip(ROLES, map(text, family.roles), strict=True)),
        "role_templates": {role: f"{{{role}_message}}" for role in ROLES},
        "messages": [],
        "seps": [text(sep) for sep in family.seps],
        "role_content_sep": family.role_sep,
        "role_empty_sep": before_answer,
        "stop_str": stop_str,
        "stop_token_ids": sorted({*eos_token_ids, *stop_ids}),
        **({"strip_reasoning_in_history": True} if family.strips_reasoning else {}),
        "function_string": "",
        "use_function_calling": False,
    }


def plain_note(checkpoint: Path) -> str | None:
    """A note on why `conversation_template` is a plain one; `None` if it isn't."""
    chat_template = _chat_template(TextCodec(checkpoint).tokenizer)
    if not chat_template:
        return "The tokenizer has no chat template: the model continues text, in MLC's apps too (template LM)."
    if _family(chat_template) is _PLAIN:
        return (
            "MLC doesn't know this chat template: mlc-chat-config.json gets a plain one. "
            "Edit its conv_template before you chat in an MLC app."
        )
    return None


def _chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    return default_template(tokenizer.chat_template) or ""


def _family(chat_template: str) -> _Family:
    fitting = (family for family in _FAMILIES if all(marker in chat_template for marker in family.markers))
    return next(fitting, _PLAIN)


def _system_template(tokenizer: PreTrainedTokenizerBase, system_template: str) -> str:
    """The family's template, with all that the chat template writes around a system message."""
    before, after = system_template.split("{system_message}")
    try:
        rendered = render_row(tokenizer, [{"role": "system", "content": _ASKED}, *_QUESTION])
    except TemplateRefusal:
        return system_template
    start = rendered.find(_ASKED)
    end = rendered.find(after, start + len(_ASKED))
    if start < 0 or end < 0 or not rendered.startswith(before):
        return system_template
    return rendered[: end + len(after)].replace(_ASKED, "{system_message}")


def _system_message(tokenizer: PreTrainedTokenizerBase, system_template: str) -> str:
    """The system message that the chat template adds to a conversation without one."""
    before, after = system_template.split("{system_message}")
    try:
        rendered = render_row(tokenizer, _QUESTION)
    except TemplateRefusal:
        return DEFAULT_SYSTEM_MESSAGE
    if not rendered.startswith(before) or after not in rendered:
        return DEFAULT_SYSTEM_MESSAGE
    return rendered[len(before) : rendered.index(after, len(before))]


def _before_answer(tokenizer: PreTrainedTokenizerBase, family: _Family) -> str:
    """What the chat template writes between the assistant's role and its answer, such as ``<think>``."""
    try:
        _, role, after = render_row(tokenizer, _QUESTION, answers_next=True).rpartition(family.roles[1])
    except TemplateRefusal:
        return family.role_sep
    return after if role else family.role_sep
