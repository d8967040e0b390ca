"""Perplexity, defined once so that figures are comparable.

A text is tokenized once, with the special tokens that the tokenizer adds by default, and cut into windows of equal
length that don't overlap; the remainder is dropped. Every window is one forward pass without previous context. The
perplexity is the exponential of the mean negative log-likelihood of tokens 2..n of all windows, in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_transact.artifacts.digests import text_digest
from edge_transact.errors import EdgeTransactError
from edge_transact.progress import track

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

LogitsFunction = Callable[[Sequence[int]], "np.ndarray | torch.Tensor"]
"""Maps the token ids of a window to its logits, ``[window, vocab_size]``, independently of earlier calls."""


@dataclass(frozen=True)
class PerplexityResult:
    """The result of one model on one text.

    Attributes:
        perplexity: exp(mean negative log-likelihood, natural logarithm).
        tokens: Tokens of all windows, including the first of each, which isn't predicted.
        windows: Number of evaluated windows.
        window: Tokens of a window.
        text_tokens: Tokens of the whole text.
        text_sha256: sha256 of the text's UTF-8 bytes, so that nobody compares figures on different texts.
    """

    perplexity: float
    tokens: int
    windows: int
    window: int
    text_tokens: int
    text_sha256: str


def windows_of(token_ids: Sequence[int], window: int, max_windows: int | None = None) -> list[Sequence[int]]:
    """Splits `token_ids` into consecutive windows of `window` tokens that don't overlap.

    Raises:
        EdgeTransactError: `window` is below 2, `max_windows` is below 1, or the text is shorter than a window.
    """
    if window < 2:
        raise EdgeTransactError(f"a window of {window} predicts nothing", fix="Use --window 2 or more.")
    if max_windows is not None and max_windows < 1:
        raise EdgeTransactError(f"{max_windows} windows", fix="Use --max-windows 1 or more.")
    count = len(token_ids) // window
    if not count:
        raise EdgeTransactError(
            f"the text has {len(token_ids)} tokens, fewer than a window of {window}",
            fix=f"Use a longer text, or --window {len(token_ids)} or less.",
        )
    count = min(count, max_windows or count)
    return [token_ids[index * window : (index + 1) * window] for index in range(count)]


def perplexity(
    model: torch.nn.Module | LogitsFunction,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    window: int = 512,
    max_windows: int | None = None,
) -> PerplexityResult:
    """The perplexity of a model on a text, as defined in the module's docstring.

    Args:
        model: A causal language model of transformers in any dtype, or a `LogitsFunction` such as a host library.
        tokenizer: transformers' tokenizer of that model.
        text: One string; `edge_transact.inputs.read_text` joins documents.
        window: Tokens of a window.
        max_windows: The most windows; the first ones are used.

    Raises:
        EdgeTransactError: See `windows_of`; or the model's log-likelihood isn't finite.
    """
    import torch

    # `verbose=False`: no warning that the text is longer than the model's context, since it is cut into windows.
    token_ids = tokenizer(text, verbose=False)["input_ids"]
    windows = windows_of(token_ids, window, max_windows)
    logits_function = _logits_of(model) if isinstance(model, torch.nn.Module) else model
    total = _negative_log_likelihood(logits_function, track(windows, "perplexity"))
    mean = total / (len(windows) * (window - 1))
    if not math.isfinite(mean):
        raise EdgeTransactError(
            f"the model's log-likelihood is {mean}", fix="Its logits overflow or its weights are damaged: try float32."
        )
    return PerplexityResult(
        perplexity=math.exp(mean),
        tokens=len(windows) * window,
        windows=len(windows),
        window=window,
        text_tokens=len(token_ids),
        text_sha256=text_digest(text),
    )


def _logits_of(model: torch.nn.Module) -> LogitsFunction:
    import torch

    device = next(model.parameters()).device

    def logits(window: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            return model(torch.tensor([window], device=device), use_cache=False).logits[0]

    return logits


def _negative_log_likelihood(logits_function: LogitsFunction, windows: Iterable[Sequence[int]]) -> float:
    """The sum over tokens 2..n of every window, in fp32 within a window and in fp64 over windows."""
    import torch

    total = 0.0
    for window in windows:
        logits = torch.as_tensor(logits_function(window))
        if logits.shape[0] != len(window):
            raise ValueError(f"logits {list(logits.shape)} for a window of {len(window)} tokens")
        targets = torch.tensor(window[1:], device=logits.device)
        total += torch.nn.functional.cross_entropy(logits[:-1].float(), targets, reduction="sum").item()
    return total
