"""Perplexity, defined once so that figures compare.

A text is tokenized once, with whatever special tokens the tokenizer adds by default, and cut into windows of equal
length that do not overlap; a remainder is left out. Every window is one forward pass without any context before it. The
perplexity is the exponential of the mean negative log-likelihood of tokens 2..n of all windows, in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_transact.artifacts.digests import text_digest
from edge_transact.errors import EdgeTransactError
from edge_transact.progress import track

if TYPE_CHECKING:
    import numpy as np
    import torch

LogitsFunction = Callable[[Sequence[int]], "np.ndarray | torch.Tensor"]
"""From the token ids of a window to its logits, ``[window, vocab_size]``; nothing is remembered between calls."""


@dataclass(frozen=True)
class PerplexityResult:
    """One model on one text.

    Attributes:
        perplexity: exp(mean negative log-likelihood, natural logarithm).
        tokens: Tokens of all windows together; each window's first isn't predicted.
        windows: How many windows were evaluated.
        window: Tokens of a window.
        text_tokens: Tokens of the whole text.
        text_sha256: Of the text's UTF-8 bytes, so that figures on different texts aren't compared.
    """

    perplexity: float
    tokens: int
    windows: int
    window: int
    text_tokens: int
    text_sha256: str


def windows_of(token_ids: Sequence[int], window: int, max_windows: int | None = None) -> list[Sequence[int]]:
    """The windows of `token_ids`: consecutive, not overlapping, all `window` tokens long.

    Raises:
        EdgeTransactError: `window` is below 2, `max_windows` below 1, or the text is shorter than a window.
    """
    if window < 2:
        raise EdgeTransactError(f"a window of {window} predicts nothing", fix="Give --window 2 or more.")
    if max_windows is not None and max_windows < 1:
        raise EdgeTransactError(f"{max_windows} windows", fix="Give --max-windows 1 or more.")
    count = len(token_ids) // window
    if not count:
        raise EdgeTransactError(
            f"the text has {len(token_ids)} tokens, fewer than a window of {window}",
            fix=f"Give a longer text, or --window {len(token_ids)} or less.",
        )
    count = min(count, max_windows or count)
    return [token_ids[index * window : (index + 1) * window] for index in range(count)]


def perplexity(
    model: torch.nn.Module | LogitsFunction,
    tokenizer: Any,
    text: str,
    *,
    window: int = 512,
    max_windows: int | None = None,
) -> PerplexityResult:
    """The perplexity of a model on a text, as the module's docstring defines it.

    Args:
        model: A causal language model of transformers, in any dtype, or a `LogitsFunction`, such as the host library
            of a DIST.
        tokenizer: transformers' tokenizer of that model.
        text: One string; `edge_transact.inputs.read_text` joins documents.
        window: Tokens of a window.
        max_windows: The first so many windows only.

    Raises:
        EdgeTransactError: As `windows_of`, or `model` predicts nothing finite.
    """
    import torch

    # `verbose`: no warning that the text is longer than the model's context; it is cut into windows.
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
    """The sum over tokens 2..n of every window; fp32 within a window, fp64 over windows."""
    import torch

    total = 0.0
    for window in windows:
        logits = torch.as_tensor(logits_function(window))
        if logits.shape[0] != len(window):
            raise ValueError(f"logits {list(logits.shape)} for a window of {len(window)} tokens")
        targets = torch.tensor(window[1:], device=logits.device)
        total += torch.nn.functional.cross_entropy(logits[:-1].float(), targets, reduction="sum").item()
    return total
