"""Samples text from a model, a piece at a time: every other piece is chats if the model has a template for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np
import torch

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.auto_classes import register
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.progress import bar
from edge_transact.runtime.chat_template import render_chat
from edge_transact.runtime.text import TextCodec
from edge_transact.system.cpu import has_fast_bf16

ROWS, LENGTH = 32, 256
"""Rows of a piece, which are sampled together, and tokens of a row."""

SEED = 0

STEP = "write text"

_END = "<|endoftext|>"

TOP = 200
"""Only the likeliest tokens are drawn: beyond them is noise that no prompt would lead to."""

Turns = tuple[list[int], list[int]]
"""The tokens of a chat template from a question to its answer, and from an answer to the next question.

They are not sampled: they follow the first one of them that is drawn.
"""


def write(writer: Checkpoint, number: int) -> np.ndarray:
    """A piece of text: int32 ``[rows, row length]``, as `shape_of` says."""
    from transformers import AutoModelForCausalLM

    register()
    codec = TextCodec(writer.path)
    model = AutoModelForCausalLM.from_pretrained(writer.path, dtype=dtype_of(writer)).eval()
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + number)
    chat = chat_frame(codec) if number % 2 == 0 else None
    # In front of a document is BOS if the tokenizer adds it, else what ends the document before.
    prompt, turns = chat or (codec.encode("") or [end_of_document(codec) or 0], None)
    rows, length = shape_of(writer)
    prompts = torch.tensor([prompt]).expand(rows, -1)
    with bar(STEP, rows * (length - len(prompt))) as advance:
        return sample(model, prompts, length, generator, turns, advance).numpy().astype(np.int32)


@torch.inference_mode()
def sample(
    model: torch.nn.Module,
    prompts: torch.Tensor,
    length: int,
    generator: torch.Generator,
    turns: Turns | None = None,
    advance: Callable[[float], None] = lambda tokens: None,
) -> torch.Tensor:
    """Continues prompts ``[rows, prompt]`` at temperature 1 to int64 ``[rows, length]``, prompts included.

    Of chats, prompts end where the user's first question begins. `advance` moves a progress bar by a number of tokens.
    """
    from transformers import DynamicCache

    device = next(model.parameters()).device
    # `past_key_values` is the argument's name before transformers 5.16.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    arguments = {name: DynamicCache(config=model.config), "use_cache": True, "logits_to_keep": 1}
    rows = torch.empty(len(prompts), length, dtype=torch.int64)
    rows[:, : prompts.shape[1]] = prompts
    forced: list[list[int]] = [[] for _ in prompts]
    roles = [0] * len(prompts)
    output = model(prompts.to(device), **arguments)
    for position in range(prompts.shape[1], length):
        likely, tokens = output.logits[:, -1].float().topk(min(TOP, output.logits.shape[-1]))
        drawn = torch.multinomial(likely.softmax(dim=-1).cpu(), 1, generator=generator)
        column = tokens.cpu().gather(1, drawn)[:, 0]
        if turns:
            for row, token in enumerate(column.tolist()):
                if not forced[row] and token == turns[roles[row]][0]:
                    forced[row] = list(turns[roles[row]])
                    roles[row] = 1 - roles[row]
                if forced[row]:
                    column[row] = forced[row].pop(0)
        rows[:, position] = column
        advance(len(prompts))
        if position + 1 < length:
            output = model(column[:, None].to(device), **arguments)
    return rows


def dtype_of(writer: Checkpoint) -> torch.dtype:
    stored = writer.tensor(EMBEDDING).dtype
    return torch.bfloat16 if stored == torch.bfloat16 and has_fast_bf16() else torch.float32


def shape_of(writer: Checkpoint) -> tuple[int, int]:
    """Rows of a piece, and tokens of a row: `LENGTH`, or the model's context if that is shorter."""
    return ROWS, min(LENGTH, writer.config.get("max_position_embeddings") or LENGTH)


def end_of_document(codec: TextCodec) -> int | None:
    """The token that ends a document: ``<|endoftext|>`` where the vocabulary has it, else EOS."""
    for token in (_END, codec.special_tokens.get("eos_token")):
        if token is not None and (number := codec.backend.token_to_id(token)) is not None:
            return number
    return None


def chat_frame(codec: TextCodec) -> tuple[list[int], Turns] | None:
    """The tokens in front of a chat's first question, and those between turns; `None` without a usable template."""
    if not codec.chat_template:
        return None
    question, answer, another = "QUESTION-1", "ANSWER-1", "QUESTION-2"
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": another},
    ]
    text = render_chat(codec.chat_template, messages, codec.special_tokens)
    if not all(text.count(mark) == 1 for mark in (question, answer, another)):
        return None
    prefix, rest = text.split(question)
    to_assistant, rest = rest.split(answer)
    to_user = rest.split(another)[0]

    def ids(part: str) -> list[int]:
        return codec.backend.encode(part, add_special_tokens=False).ids

    turns = ids(to_assistant), ids(to_user)
    return (ids(prefix), turns) if all([ids(prefix), *turns]) else None
