"""The loss over the vocabulary and its gradients, for a few tokens at a time, since logits take much memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

CHUNK_TOKENS = {"cpu": 256, "cuda": 1024}
"""Tokens whose logits are in memory at once, by the kind of device."""

BLOCK_TOKENS = 1024
"""Tokens whose logits' gradients are in memory at once: one matrix product gives the gradient of `lm_head`."""


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
        """Those of some of the tokens."""
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
    """Slices of at most `CHUNK_TOKENS` tokens."""
    return _slices(tokens, CHUNK_TOKENS.get(device.type, CHUNK_TOKENS["cuda"]))


def _slices(tokens: int, size: int) -> Iterator[slice]:
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))


def _compare(
    logits: torch.Tensor, labels: torch.Tensor, predictions: Predictions | None, cross_entropy: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed loss, and its gradient with respect to the logits, both fp32. `logits` are overwritten."""
    log_student = torch.log_softmax(logits, dim=-1)
    loss = logits.new_zeros(())
    if predictions is None or cross_entropy == 1:
        by_logits = torch.exp(log_student, out=logits)
        loss = loss - log_student.gather(1, labels[:, None]).sum()
        by_logits.scatter_add_(1, labels[:, None], by_logits.new_full((len(labels), 1), -1.0))
        return loss, by_logits
    share = 1 - cross_entropy
    if cross_entropy:
        loss = loss - cross_entropy * log_student.gather(1, labels[:, None]).sum()
    expected = functional.linear(predictions.hidden, predictions.head).float()
    log_teacher = torch.log_softmax(expected, dim=-1)
    teacher = torch.exp(log_teacher, out=expected)
    loss = loss + share * torch.dot(teacher.flatten(), log_teacher.sub_(log_student).flatten())
    by_logits = torch.exp(log_student, out=logits).sub_(teacher, alpha=share)
    if cross_entropy:
        by_logits.scatter_add_(1, labels[:, None], by_logits.new_full((len(labels), 1), -cross_entropy))
    return loss, by_logits
