"""Perplexity, defined once so that figures are comparable.

A text is tokenized once, with the special tokens that the tokenizer adds by default, and cut into windows of equal
length that don't overlap; the remainder is dropped. Every window is one forward pass without previous context. The
perplexity is the exponential of the mean negative log-likelihood of tokens 2..n of all windows, in fp32.

With a reference model, the predictions of both are compared, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from edge_transact.artifacts.digests import text_digest
from edge_transact.errors import EdgeTransactError
from edge_transact.progress import track, working
from edge_transact.system.memory import trim

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

    from edge_transact.cache.journal import Journal

LogitsFunction = Callable[[Sequence[int]], "np.ndarray | torch.Tensor"]
"""Maps the token ids of a window to its logits, ``[window, vocab_size]``, independently of earlier calls."""

STEP = "perplexity"
"""The description of the bar, where no model is named."""

TOKENS_STEP = "tokenize the text"

ROWS = 64
"""Predictions of a window that are compared at once: few enough not to double the memory of its logits."""


def perplexity_step(model: str) -> str:
    return f"perplexity of {Path(model).name}"


class Perplexity(TypedDict):
    """The result of one model on one text: the exponential of the mean negative log-likelihood of `tokens` predictions.

    With a reference, the rest is how far its predictions are from the reference's: KL(reference || model), in nats, and
    the share of predictions whose likeliest token is the same. ``text_sha256`` is that of the text's UTF-8 bytes, so
    that nobody compares figures on different texts.
    """

    perplexity: float
    tokens: int
    windows: int
    window: int
    text_tokens: int
    text_sha256: str
    kl_mean: NotRequired[float]
    kl_median: NotRequired[float]
    kl_p99: NotRequired[float]
    same_top: NotRequired[float]


def windows_of(token_ids: Sequence[int], window: int, max_windows: int | None = None) -> list[Sequence[int]]:
    """Consecutive windows of `window` tokens; an `EdgeTransactError` if the text is shorter than one."""
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
    reference: torch.nn.Module | LogitsFunction | None = None,
    journal: Journal | dict[str, dict[str, torch.Tensor]] | None = None,
    name: str = "window",
    step: str = STEP,
) -> Perplexity:
    """The perplexity of a model on a text, as defined in the module's docstring.

    Args:
        model: A causal language model of transformers in any dtype, or a `LogitsFunction` such as a host library.
        text: One string; `edge_transact.inputs.read_text` joins documents.
        reference: A model with the same vocabulary, to measure the divergence from.
        journal: Where the result of each window goes; those that it has aren't measured again.
        name: What the journal calls them, before their numbers.

    Raises:
        EdgeTransactError: See `windows_of`; the model's log-likelihood isn't finite; or the reference has another
            vocabulary.
    """
    # `verbose=False`: no warning that the text is longer than the model's context, since it is cut into windows.
    with working(TOKENS_STEP):
        token_ids = tokenizer(text, verbose=False)["input_ids"]
        trim()
    windows = windows_of(token_ids, window, max_windows)
    journal = {} if journal is None else journal
    total, comparisons = 0.0, []
    logits_of = _logits_of(model)
    reference_logits_of = None if reference is None else _logits_of(reference)
    for number, ids in enumerate(track(windows, step)):
        group = f"{name}-{number}"
        if group not in journal:
            journal[group] = _measure(logits_of, reference_logits_of, ids)
        measured = journal[group]
        total += measured["loss"].item()
        if "comparison" in measured:
            comparisons.append(measured["comparison"])
    mean = total / (len(windows) * (window - 1))
    if not math.isfinite(mean):
        raise EdgeTransactError(
            f"the model's log-likelihood is {mean}", fix="Its logits overflow or its weights are damaged: try float32."
        )
    result = Perplexity(
        perplexity=math.exp(mean),
        tokens=len(windows) * (window - 1),
        windows=len(windows),
        window=window,
        text_tokens=len(token_ids),
        text_sha256=text_digest(text),
    )
    if comparisons:
        import torch

        divergence, same = torch.cat(comparisons, dim=1).double()
        result["kl_mean"], result["same_top"] = divergence.mean().item(), same.mean().item()
        result["kl_median"], result["kl_p99"] = divergence.quantile(0.5).item(), divergence.quantile(0.99).item()
    return result


def _measure(
    logits_of: LogitsFunction, reference_logits_of: LogitsFunction | None, window: Sequence[int]
) -> dict[str, torch.Tensor]:
    """A window's negative log-likelihood, fp64, and with a reference what `_compare` returns."""
    import torch

    predicted = _predicted(logits_of, window)
    targets = torch.tensor(window[1:], device=predicted.device)
    parts = zip(predicted.split(ROWS), targets.split(ROWS), strict=True)
    loss = math.fsum(torch.nn.functional.cross_entropy(*part, reduction="sum").item() for part in parts)
    measured = {"loss": torch.tensor(loss, dtype=torch.float64)}
    if reference_logits_of:
        measured["comparison"] = _compare(_predicted(reference_logits_of, window), predicted)
    return measured


def _logits_of(model: torch.nn.Module | LogitsFunction) -> LogitsFunction:
    import torch

    if not isinstance(model, torch.nn.Module):
        return model
    device = next(model.parameters()).device

    def logits(window: Sequence[int]) -> torch.Tensor:
        with torch.inference_mode():
            return model(torch.tensor([window], device=device), use_cache=False).logits[0]

    return logits


def _predicted(logits_of: LogitsFunction, window: Sequence[int]) -> torch.Tensor:
    """The logits of tokens 2..n of a window, fp32 ``[n - 1, vocab_size]``."""
    import torch

    logits = torch.as_tensor(logits_of(window))
    if logits.shape[0] != len(window):
        raise ValueError(f"logits {list(logits.shape)} for a window of {len(window)} tokens")
    return logits[:-1].float()


def _compare(reference: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """The divergence of each prediction, and whether both models' likeliest token is the same: ``[2, predictions]``."""
    import torch

    if reference.shape != model.shape:
        raise EdgeTransactError(
            f"the reference has a vocabulary of {reference.shape[1]} tokens, the model one of {model.shape[1]}",
            fix="Name a reference with the same tokenizer, such as the model before pruning or quantization.",
        )
    compared = []
    for expected, actual in zip(reference.split(ROWS), model.to(reference.device).split(ROWS), strict=True):
        expected, actual = expected.log_softmax(dim=-1), actual.log_softmax(dim=-1)
        # The sum can be a rounding below 0.
        divergence = (
            torch.nn.functional.kl_div(actual, expected, reduction="none", log_target=True).sum(-1).clamp_min(0)
        )
        compared.append(torch.stack([divergence, (expected.argmax(dim=-1) == actual.argmax(dim=-1)).float()]))
    return torch.cat(compared, dim=1).cpu()
