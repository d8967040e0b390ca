"""The TEXT ``self``: chats and documents that a model writes, kept in the cache piece by piece.

Every other piece is chats, if the model has a chat template: it invents the question, too. Documents begin after the
token that ends documents.
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
from edge_transact.artifacts.dist_files import TOKENIZER_FILES
from edge_transact.cache.keys import code_of
from edge_transact.checkpoint import Checkpoint
from edge_transact.inputs.source import pruned_from
from edge_transact.selftext.writing import SEED, STEP, dtype_of, shape_of, write

SELF = "self"
"""The TEXT's name. A file of that name is ``./self``."""

PIECES = 16
"""Pieces that a training reads before it begins again: 131,072 tokens."""

_FILE = "ids.npy"


@dataclass(frozen=True)
class SelfPiece:
    """A piece of a model's text, written when its rows are asked for."""

    writer: Checkpoint
    number: int

    @property
    def tokens(self) -> int:
        return math.prod(shape_of(self.writer))

    def rows(self) -> Iterator[np.ndarray]:
        """The rows, int32 ``[row length]``, from the cache if they have been written before."""
        shape = shape_of(self.writer)
        ingredients = writer_identity(self.writer) | {"piece": self.number, "seed": SEED, "shape": shape}

        def make(directory: Path) -> None:
            np.save(directory / _FILE, write(self.writer, self.number))

        what = f"{STEP}, piece {self.number + 1}"
        found = cache.made(cache.Recipe("texts", what, ingredients, make, is_step=False))
        return iter(np.load(found / _FILE))


def self_pieces(checkpoint: Checkpoint) -> tuple[list[SelfPiece], str]:
    """The pieces of ``self`` for a model, and their `self_identity`.

    The model that it was pruned from writes them, if it is on this machine.
    """
    writer = pruned_from(checkpoint) or checkpoint
    return [SelfPiece(writer, number) for number in range(PIECES)], self_identity(checkpoint)


def self_identity(checkpoint: Checkpoint) -> str:
    """The ingredients of ``self`` for a model, as JSON."""
    return json.dumps(writer_identity(pruned_from(checkpoint) or checkpoint), sort_keys=True)


def self_tokens(checkpoint: Checkpoint, tokens: int) -> torch.Tensor:
    """At least `tokens` tokens of ``self``, int64, row after row."""
    writer = pruned_from(checkpoint) or checkpoint
    pieces = -(-tokens // SelfPiece(writer, 0).tokens)
    rows = [row for number in range(pieces) for row in SelfPiece(writer, number).rows()]
    return torch.from_numpy(np.concatenate(rows)).long()


def writer_identity(writer: Checkpoint) -> dict[str, object]:
    """The ingredients of a model's text, besides the piece."""
    return {
        "writer": writer.digest(*TOKENIZER_FILES, "chat_template.jinja"),
        "dtype": str(dtype_of(writer)),
        "code": code_of(write),
        **{package: version(package) for package in ("torch", "transformers")},
    }
