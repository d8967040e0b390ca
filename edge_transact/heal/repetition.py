"""A penalty on repetition: unlikelihood of the tokens that have just been there and don't follow.

Welleck et al., "Neural Text Generation with Unlikelihood Training" (ICLR 2020), the token-level objective, with two
differences. Only the last `WINDOW` tokens count. And where there is a teacher, only those that the model finds likelier
than the teacher does: a word that the teacher would repeat, too, is none to unlearn.
"""

from __future__ import annotations

import torch
from torch.nn import functional

WINDOW = 64
"""Tokens that count as just been there."""

LEAST_REST = 1e-4
"""What a token's probability lacks to 1 at least, in the penalty's gradient."""


def recent_tokens(ids: torch.Tensor) -> torch.Tensor:
    """The last `WINDOW` tokens in front of each but the first: int64 ``[batch, length - 1, WINDOW]``, -1 for none.

    Args:
        ids: int64 ``[batch, length]``.
    """
    return functional.pad(ids[:, :-1], (WINDOW - 1, 0), value=-1).unfold(1, WINDOW, 1)


def unlikelihood(
    log_student: torch.Tensor, labels: torch.Tensor, recent: torch.Tensor, teacher: torch.Tensor | float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed penalty, and its gradient with respect to the recent tokens' logits as if others had no part in it.

    Args:
        log_student: The student's log-probabilities, fp32 ``[tokens, vocab_size]``.
        labels: int64 ``[tokens]``: the tokens that followed.
        recent: What `recent_tokens` returns of them, ``[tokens, WINDOW]``.
        teacher: The teacher's probabilities of `recent`, or 0 without a teacher; anything where there is no token.

    Returns:
        fp32 scalar, and fp32 ``[tokens, WINDOW]``: `g`, of which the gradient with respect to all logits is ``g`` at
        these tokens minus ``g.sum()`` times the student's probabilities.
    """
    student = log_student.gather(1, recent.clamp_min(0)).exp()
    seen = (recent[:, :, None] == recent[:, None, :]).tril(-1).any(-1)
    counts = (student > teacher) & (recent >= 0) & (recent != labels[:, None]) & ~seen
    rest = (1 - student).clamp_min(LEAST_REST)
    return -(rest.log() * counts).sum(), student / rest * counts
