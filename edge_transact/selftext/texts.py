"""The TEXT ``self``: chats and documents that a model writes, kept in the cache piece by piece.

Every other piece is chats, if the model has a chat template: they begin where the template lets the user begin, so the
model invents the question, too. The other pieces are documents, which begin after the token that ends documents.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from edge_transact import cache
from edge_transact.artifacts.digests import files_digest
from edge_transact.artifacts.dist_files import TOKENIZER_FILES
from edge_transact.checkpoint import Checkpoint
from edge_transact.checkpoint.auto_classes import register
from edge_transact.checkpoint.layout import EMBEDDING
from edge_transact.inputs.source import pruned_from
from edge_transact.progress import bar
from edge_transact.runtime.chat_template import render_chat
from edge_transact.runtime.text import TextCodec
from edge_transact.selftext.sampling import Turns, sample
from edge_transact.system.cpu import has_fast_bf16

SELF = "self"
"""The TEXT's name. A file of that name is ``./self``."""

ROWS, LENGTH = 32, 256
"""Rows of a piece, which are sampled together, and tokens of a row: 32 rows of SmolLM2 have a KV cache of 0.4 GB.

On one core with AVX2, 32 rows in fp32 are 173 tokens a second. The host library's W4 model, one row at a time, makes
209, but it isn't quite the model itself, and would have to be built first.
"""

PIECES = 16
"""Pieces that a training reads before it begins again: 131,072 tokens."""

SEED = 0

STEP = "write text"

_END = "<|endoftext|>"
_FILE = "ids.npy"


@dataclass(frozen=True)
class Written:
    """A row that a model wrote.

    Attributes:
        ids: int32 ``[row length]``, as `_shape` says.
    """

    ids: np.ndarray


@dataclass(frozen=True)
class SelfPiece:
    """A piece of what a model writes, written when its rows are asked for.

    Attributes:
        writer: The model.
        number: Which piece.
    """

    writer: Checkpoint
    number: int

    @property
    def tokens(self) -> int:
        """How many it has."""
        return math.prod(_shape(self.writer))

    def rows(self) -> Iterator[Written]:
        """The rows, from the cache if they have been written before."""
        ingredients = writer_identity(self.writer) | {"piece": self.number, "seed": SEED, "shape": _shape(self.writer)}

        def make(directory: Path) -> None:
            np.save(directory / _FILE, write(self.writer, self.number))

        what = f"{STEP}, piece {self.number + 1}"
        found = cache.made(cache.Recipe("texts", what, ingredients, make, is_step=False))
        return (Written(row) for row in np.load(found / _FILE))


def self_pieces(checkpoint: Checkpoint) -> tuple[list[SelfPiece], str]:
    """The pieces of ``self`` for a model, and what identifies them.

    The writer is the model that it was pruned from, if there is one and it is on this machine.
    """
    writer = pruned_from(checkpoint) or checkpoint
    digest = json.dumps(writer_identity(writer), sort_keys=True)
    return [SelfPiece(writer, number) for number in range(PIECES)], digest


def self_tokens(checkpoint: Checkpoint, tokens: int) -> torch.Tensor:
    """At least `tokens` tokens of ``self``, int64, row after row."""
    writer = pruned_from(checkpoint) or checkpoint
    pieces = -(-tokens // SelfPiece(writer, 0).tokens)
    rows = [row.ids for number in range(pieces) for row in SelfPiece(writer, number).rows()]
    return torch.from_numpy(np.concatenate(rows)).long()


def writer_identity(writer: Checkpoint) -> dict[str, object]:
    """What a model's text depends on, besides the piece."""
    names = ("config.json", *TOKENIZER_FILES, "chat_template.jinja")
    files = [path for path in map(writer.path.joinpath, names) if path.is_file()]
    return {
        "writer": files_digest([*files, *writer.path.glob("*.safetensors")]),
        "dtype": str(_dtype(writer)),
        "code": cache.code("selftext"),
        **{package: version(package) for package in ("torch", "transformers")},
    }


def _dtype(writer: Checkpoint) -> torch.dtype:
    stored = writer.tensor(EMBEDDING).dtype
    return torch.bfloat16 if stored == torch.bfloat16 and has_fast_bf16() else torch.float32


def write(writer: Checkpoint, number: int) -> np.ndarray:
    """A piece of text: int32 ``[rows, row length]``, as `_shape` says."""
    from transformers import AutoModelForCausalLM

    register()
    codec = TextCodec(writer.path)
    model = AutoModelForCausalLM.from_pretrained(writer.path, dtype=_dtype(writer)).eval()
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + number)
    chat = chat_frame(codec) if number % 2 == 0 else None
    prompt, turns = chat or (document_start(codec), None)
    rows, length = _shape(writer)
    prompts = torch.tensor([prompt]).expand(rows, -1)
    with bar(STEP, rows * (length - len(prompt))) as advance:
        return sample(model, prompts, length, generator, turns, advance).numpy().astype(np.int32)


def _shape(writer: Checkpoint) -> tuple[int, int]:
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

    turns = Turns(ids(to_assistant), ids(to_user))
    return (ids(prefix), turns) if all([ids(prefix), *turns.between]) else None
