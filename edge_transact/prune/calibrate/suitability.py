"""Whether a calibration text says anything of the model: refused where it can't, with a word where it hardly can."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from edge_transact.errors import EdgeTransactError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

REPEATED = 0.9
"""More of one token than this isn't text: English has 8 % of its most frequent one."""

FOREIGN = 0.05
"""More tokens than this that are unknown, or less than a character, is a script that the tokenizer wasn't made for.

With SmolLM2's it is 0 % of English, 3 % of French, 8 % of Russian, 77 % of Chinese.
"""


def check_text(text: str, windows: torch.Tensor, tokenizer: PreTrainedTokenizerBase) -> None:
    """Looks at the tokens that were drawn from a text, and warns where they are of another script than the model's.

    Args:
        text: The TEXT, for the message.
        windows: int64 token ids, any shape.
        tokenizer: The model's.

    Raises:
        EdgeTransactError: They are one token over and over.
    """
    ids, counts = windows.unique(return_counts=True)
    shares = dict(zip(ids.tolist(), (counts / windows.numel()).tolist(), strict=True))
    frequent = max(shares, key=lambda token: shares[token])
    if shares[frequent] > REPEATED:
        raise EdgeTransactError(
            f"{shares[frequent]:.0%} of the calibration text {text} is the token {tokenizer.decode([frequent])!r}",
            fix="Give text as the model will see it: one token over and over says nothing of the others.",
        )
    foreign = sum(
        share
        for token, share in shares.items()
        # U+FFFD is what the bytes of a part of a character decode to.
        if token == tokenizer.unk_token_id or "\ufffd" in tokenizer.decode([token])
    )
    if foreign > FOREIGN:
        logger.warning(
            f"{foreign:.0%} of the tokens of the calibration text {text} are unknown to the model's tokenizer, or only "
            "a part of a character: it wasn't made for this script. Calibrate on text as the model will see it."
        )
