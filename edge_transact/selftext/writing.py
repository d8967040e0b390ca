"""Samples text from a model, a piece at a time: every other piece is chats if the model has a template for them."""

from __future__ import annotations

import numpy as np
import torch

from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.auto_classes import register
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.progress import bar
from edge_transact.runtime.chat_template import render_chat
from edge_transact.runtime.text import TextCodec
from edge_transact.selftext.sampling import Turns, sample
from edge_transact.system.cpu import has_fast_bf16

ROWS, LENGTH = 32, 256
"""Rows of a piece, which are sampled together, and tokens of a row."""

SEED = 0

STEP = "write text"

_END = "<|endoftext|>"


def write(writer: Checkpoint, number: int) -> np.ndarray:
    """A piece of text: int32 ``[rows, row length]``, as `shape_of` says."""
    from transformers import AutoModelForCausalLM

    register()
    codec = TextCodec(writer.path)
    model = AutoModelForCausalLM.from_pretrained(writer.path, dtype=dtype_of(writer)).eval()
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + number)
    chat = chat_frame(codec) if number % 2 == 0 else None
    prompt, turns = chat or (document_start(codec), None)
    rows, length = shape_of(writer)
    prompts = torch.tensor([prompt]).expand(rows, -1)
    with bar(STEP, rows * (length - len(prompt))) as advance:
        return sample(model, prompts, length, generator, turns, advance).numpy().astype(np.int32)


def dtype_of(writer: Checkpoint) -> torch.dtype:
    """The dtype in which a model writes on this machine."""
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


def document_start(codec: TextCodec) -> list[int]:
    """The tokens in front of a document: BOS if the tokenizer adds it, else what ends the document before."""
    begun = codec.encode("")
    end = end_of_document(codec)
    return begun or [0 if end is None else end]


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
