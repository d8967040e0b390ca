"""A penalty on repetition in the student's own continuations.

Welleck et al., "Neural Text Generation with Unlikelihood Training" (ICLR 2020), the sequence-level objective, for
greedy continuations, since answers are greedy. No text teaches a model to leave a loop, since no text leads into one.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel

from edge_transact.errors import UsageError
from edge_transact.healing.losses import chunks
from edge_transact.healing.text import Sequence

CONTEXT, CONTINUATION = 48, 48
"""Tokens that are read and tokens that are written."""

NGRAM = 4
"""Tokens that have been there in the same order are a repetition."""

EVERY_TOKENS = 128
"""There is a continuation for so many tokens of text."""


def rows_of(length: int) -> int:
    """The number of continuations of a sequence of `length` tokens.

    Raises:
        UsageError: The sequence is too short to be continued.
    """
    if length <= CONTEXT:
        raise UsageError(
            f"--unlikelihood with sequences of {length} tokens: the model goes on after {CONTEXT}",
            fix=f"Give a larger --train-window than {CONTEXT}.",
        )
    return max(1, length // EVERY_TOKENS)


def contexts(sequence: Sequence, number: int) -> torch.Tensor:
    """The beginnings to continue: int64 ``[rows, CONTEXT]``, drawn by the sequence's number.

    Of chats, the tokens in front of answers; where there are too few of these, those in front of any token.
    """
    draw = torch.Generator().manual_seed(number)
    begins = (sequence.counted[CONTEXT:] & ~sequence.counted[CONTEXT - 1 : -1]).nonzero()[:, 0]
    anywhere = torch.arange(len(sequence.ids) - CONTEXT)
    drawn = [found[torch.randperm(len(found), generator=draw)] for found in (begins, anywhere)]
    places = torch.cat(drawn)[: rows_of(len(sequence.ids)), None]
    return sequence.ids[places + torch.arange(CONTEXT)]


@torch.no_grad()
def go_on(model: PreTrainedModel, ids: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Greedy continuations, int64 ``[rows, CONTINUATION]``, of `ids`, int64 ``[rows, CONTEXT]``.

    The model is as in `student.generating`, and `head` is `lm_head`'s weight, in the dtype of products.
    """
    cache, inputs, written = DynamicCache(config=model.config), ids, []
    # However it goes on: loops are what is looked for, and sharded weights are gathered by all processes each time.
    for _ in range(CONTINUATION):
        hidden = model.model(inputs, None, None, cache, use_cache=True).last_hidden_state
        inputs = functional.linear(hidden[:, -1:].to(head.dtype), head).argmax(-1)
        written.append(inputs)
    return torch.cat(written, 1)


def repeated(ids: torch.Tensor, ends: Collection[int]) -> torch.Tensor:
    """Which tokens of continuations ``[rows, tokens]`` end an n-gram that the continuation has had before: bool like
    `ids`.

    None does after one of `ends`, the tokens that end an answer.
    """
    grams = ids.unfold(1, NGRAM, 1)
    again = (grams[:, :, None] == grams[:, None]).all(-1).tril(-1).any(-1)
    ended = torch.isin(ids, torch.tensor(list(ends), dtype=ids.dtype, device=ids.device)).cumsum(1) > 0
    return functional.pad(again, (NGRAM - 1, 0)) & ~ended


def penalty(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """The summed unlikelihood of tokens, in nats: fp32 scalar.

    Args:
        hidden: Hidden states in front of `lm_head`, ``[tokens, hidden_size]``.
        weight: `lm_head`'s weight, ``[vocab_size, hidden_size]``.
        ids: int64 ``[tokens]``.
    """
    total = 0 * hidden.sum()  # part of the graph, even of no tokens
    for rows in chunks(len(ids), hidden.device):
        # Computed again in the backward pass: logits are large.
        total = total + checkpoint(_penalty, hidden[rows], weight, ids[rows], use_reentrant=False)
    return total


def _penalty(hidden: torch.Tensor, weight: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    logits = functional.linear(hidden, weight).float()
    # log (1 - p) from the other tokens, because a model in a loop is all but sure of the next one.
    others = logits.scatter(1, ids[:, None], -torch.inf)
    return (logits.logsumexp(-1) - others.logsumexp(-1)).sum()
