"""Training text: sequences of tokens in an endless, fixed order, and a held-out part."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import Any

import torch

from edge_transact.artifacts.digests import text_digest
from edge_transact.checkpoint import Checkpoint
from edge_transact.errors import EdgeTransactError
from edge_transact.inputs.texts import DOCUMENT_SEPARATOR, read_documents

HELD_OUT_SHARE = 16
"""One sequence in 16 is held out, and at most `MOST_HELD_OUT`."""

MOST_HELD_OUT = 16


@dataclass(frozen=True)
class Sequence:
    """Tokens to train on.

    Attributes:
        ids: int64 ``[length]``.
        counted: bool ``[length]``: which tokens' predictions count; the first token is never predicted.
    """

    ids: torch.Tensor
    counted: torch.Tensor


class TrainingText:
    """The sequences of one text or several, with the same number from each as long as they last.

    Args:
        checkpoint: The model, for its tokenizer and vocabulary.
        texts: TEXTs.
        length: Tokens of a sequence.
        seed: The order of the sequences.

    Attributes:
        held_out: int64 ``[n, length]``: sequences of all texts that are never trained on.

    Raises:
        EdgeTransactError: A text can't be read, is too short for one sequence to train on and one to hold out, or has
            tokens outside the model's vocabulary.
    """

    def __init__(self, checkpoint: Checkpoint, texts: Several[str], *, length: int, seed: int) -> None:
        from edge_transact.runtime.text import TextCodec

        tokenizer = TextCodec(checkpoint.path).tokenizer
        self._seed, self._length = seed, length
        self._sources: list[dict[str, Any]] = []
        self._pools: list[torch.Tensor] = []
        held_out = []
        for text in texts:
            document = DOCUMENT_SEPARATOR.join(read_documents(text, "calibration"))
            ids = tokenizer(document, verbose=False)["input_ids"]
            if len(ids) < 2 * length:
                raise EdgeTransactError(
                    f"{text} has {len(ids)} tokens: too few for a sequence of {length} to train on and one to hold out",
                    fix="Give a longer text, or a smaller --train-window.",
                )
            sequences = torch.tensor(ids[: len(ids) // length * length]).view(-1, length)
            if sequences.max() >= checkpoint.plan.vocab_size:
                raise EdgeTransactError(
                    f"the tokenizer makes token {sequences.max()}, the model's vocabulary has "
                    f"{checkpoint.plan.vocab_size}",
                    fix="Use the tokenizer that belongs to the model.",
                )
            most = max(1, MOST_HELD_OUT // len(texts))
            every = (
                max(HELD_OUT_SHARE, -(-len(sequences) // most)) if len(sequences) > HELD_OUT_SHARE else len(sequences)
            )
            is_held_out = torch.arange(len(sequences)) % every == every // 2
            held_out.append(sequences[is_held_out])
            self._pools.append(sequences[~is_held_out])
            self._sources.append({"text": text, "sha256": text_digest(document), "tokens": len(ids)})
        self.held_out = torch.cat(held_out)

    def to_dict(self) -> dict[str, Any]:
        """What the sequences depend on, as JSON values."""
        return {"sources": self._sources, "length": self._length, "seed": self._seed}

    def sequences(self, first: int) -> Iterator[Sequence]:
        """Sequence number `first` and all that follow, endlessly; each time that a text ends, in another order."""
        counted = torch.arange(self._length) > 0
        number, epoch, order = first, -1, torch.empty(0, dtype=torch.long)
        orders: dict[int, tuple[int, torch.Tensor]] = {}
        while True:
            which, place = number % len(self._pools), number // len(self._pools)
            pool = self._pools[which]
            epoch, row = divmod(place, len(pool))
            if orders.get(which, (-1, order))[0] != epoch:
                generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch * 1009 + which)
                orders[which] = epoch, torch.randperm(len(pool), generator=generator)
            yield Sequence(pool[orders[which][1][row]], counted)
            number += 1
