"""The losses of a training and their gradients, for a few tokens at a time, since logits take much memory.

The penalty on repetition in the student's own continuations is that of Welleck et al., "Neural Text Generation with
Unlikelihood Training" (ICLR 2020), the sequence-level objective, for greedy continuations, since answers are greedy. No
text teaches a model to leave a loop, since no text leads into one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedModel

from edge_transact.errors import UsageError
from edge_transact.healing.text import Sequence

CHUNK_TOKENS = {"cpu": 256, "cuda": 1024}
"""Tokens whose logits are in memory at once, by the kind of device."""

BLOCK_TOKENS = 1024
"""Tokens whose logits' gradients are in memory at once: one matrix product gives the gradient of `lm_head`."""


CONTEXT, CONTINUATION = 48, 48
"""Tokens that are read and tokens that are written."""

NGRAM = 4
"""Tokens that have been there in the same order are a repetition."""

EVERY_TOKENS = 128
"""There is a continuation for so many tokens of text."""


@dataclass(frozen=True)
class Predictions:
    """A teacher's predictions of some tokens, as its hidden states in front of `lm_head`.

    Attributes:
        hidden: ``[tokens, hidden_size of the teacher]``, in the dtype of products.
        head: `lm_head`'s weight, ``[vocab_size, hidden_size of the teacher]``, in the checkpoint's dtype, without a
            copy.
    """

    hidden: torch.Tensor
    head: torch.Tensor

    def of(self, rows: slice) -> Predictions:
        return Predictions(self.hidden[rows], self.head)


class _HeadLoss(torch.autograd.Function):
    """See `head_loss`. The gradients are computed on the way, because they need the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        labels: torch.Tensor,
        predictions: Predictions | None,
        cross_entropy: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        inputs, head = hidden.to(dtype), weight.to(dtype)
        if predictions is not None:
            predictions = Predictions(predictions.hidden, predictions.head.to(predictions.hidden.dtype))
        by_hidden = torch.empty_like(inputs) if wants_hidden else None
        # A head alone is never trained: its hidden states have gradients whenever it has them.
        by_weight = torch.zeros(weight.shape, dtype=weight.dtype, device=weight.device) if wants_weight else None
        total = torch.zeros((), dtype=torch.float64 if hidden.device.type == "cpu" else torch.float32)
        total = total.to(hidden.device)
        for block in _slices(len(inputs), BLOCK_TOKENS):
            of_block = inputs[block]
            by_logits = inputs.new_empty(len(of_block), len(head)) if by_hidden is not None else None
            for rows in chunks(len(of_block), hidden.device):
                of_all = slice(block.start + rows.start, block.start + rows.stop)
                logits = functional.linear(of_block[rows], head).float()
                loss, gradient = _compare(logits, labels[of_all], predictions and predictions.of(of_all), cross_entropy)
                total += loss
                if by_logits is not None:
                    by_logits[rows] = gradient
            if by_hidden is not None and by_logits is not None:
                torch.mm(by_logits, head, out=by_hidden[block])
                if by_weight is not None and by_weight.dtype == dtype:
                    by_weight.addmm_(by_logits.t(), of_block)
                elif by_weight is not None:
                    by_weight += by_logits.t() @ of_block
        ctx.gradients = (by_hidden if by_hidden is None else by_hidden.to(hidden.dtype)), by_weight
        return total.float()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        by_hidden, by_weight = ctx.gradients
        del ctx.gradients
        # In place: nobody else has them, and the one of the embedding is the largest tensor of all.
        return *(None if one is None else one.mul_(gradient) for one in (by_hidden, by_weight)), None, None, None, None


def head_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    predictions: Predictions | None,
    *,
    cross_entropy: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The summed loss of some tokens' predictions, in nats: KL(teacher || student), cross-entropy, or a mix of both.

    Args:
        hidden: The student's hidden states in front of `lm_head`, ``[tokens, hidden_size]``.
        weight: `lm_head`'s weight, ``[vocab_size, hidden_size]``.
        labels: int64 ``[tokens]``: the tokens that followed.
        predictions: The teacher's; `None` if `cross_entropy` is 1.
        cross_entropy: The share of the cross-entropy.
        dtype: The dtype of products; losses are computed in fp32.

    Returns:
        fp32 scalar, with gradients for `hidden` and `weight`.
    """
    return _HeadLoss.apply(hidden, weight, labels, predictions, cross_entropy, dtype)


def chunks(tokens: int, device: torch.device) -> Iterator[slice]:
    return _slices(tokens, CHUNK_TOKENS.get(device.type, CHUNK_TOKENS["cuda"]))


def _slices(tokens: int, size: int) -> Iterator[slice]:
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))


def _compare(
    logits: torch.Tensor, labels: torch.Tensor, predictions: Predictions | None, cross_entropy: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss, and its gradient with respect to the logits, both fp32. `logits` are overwritten."""
    of_text = 1.0 if predictions is None else cross_entropy
    log_student = torch.log_softmax(logits, dim=-1)
    loss = logits.new_zeros(())
    if of_text:
        loss = loss - of_text * log_student.gather(1, labels[:, None]).sum()
    if predictions is None or of_text == 1:
        by_logits = torch.exp(log_student, out=logits)
    else:
        expected = functional.linear(predictions.hidden, predictions.head).float()
        log_teacher = torch.log_softmax(expected, dim=-1)
        teacher = torch.exp(log_teacher, out=expected)
        loss = loss + (1 - of_text) * torch.dot(teacher.flatten(), log_teacher.sub_(log_student).flatten())
        by_logits = torch.exp(log_student, out=logits).sub_(teacher, alpha=1 - of_text)
    if of_text:
        by_logits.scatter_add_(1, labels[:, None], by_logits.new_full((len(labels), 1), -of_text))
    return loss, by_logits


def rows_of(length: int) -> int:
    """The number of continuations of a sequence of `length` tokens; a `UsageError` if it is too short for one."""
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
