"""Checks that a calibration text suits the model: refuses text that can't, and warns about text that hardly does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from edge_transact.errors import EdgeTransactError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

REPEATED = 0.9
"""A larger share of one token isn't text. The most frequent token of English has 8 %."""

FOREIGN = 0.05
"""A larger share of tokens that are unknown or only part of a character is a script that the tokenizer doesn't know.

SmolLM2's tokenizer gives 0 % for English, 8 % for Russian and 77 % for Chinese.
"""


def check_text(text: str, windows: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warns if the tokenizer doesn't know the script of a text, from the tokens that were drawn from it (any shape).

    Raises:
        EdgeTransactError: Nearly all tokens are the same.
    """
    ids, counts = windows.unique(return_counts=True)
    shares = dict(zip(ids.tolist(), (counts / windows.numel()).tolist(), strict=True))
    frequent = max(shares, key=lambda token: shares[token])
    if shares[frequent] > REPEATED:
        raise EdgeTransactError(
            f"{shares[frequent]:.0%} of the calibration text {text} is the token {tokenizer.decode([frequent])!r}",
            fix="Calibrate on text like the model's input: a repeated token says nothing about the others.",
        )
    foreign = sum(
        share
        for token, share in shares.items()
        # Part of a character decodes to U+FFFD.
        if token == tokenizer.unk_token_id or "\ufffd" in tokenizer.decode([token])
    )
    if foreign > FOREIGN:
        logger.warning(
            f"{foreign:.0%} of the tokens of the calibration text {text} are unknown to the model's tokenizer, or only "
            "a part of a character: it wasn't made for this script. Calibrate on text like the model's input."
        )
