"""What was built and measured, beside what a plan predicted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PositiveInt

from edge_transact.errors import UsageError
from edge_transact.formatting import megabytes, milliseconds
from edge_transact.planning.quality import Figure
from edge_transact.reading import read_model

logger = logging.getLogger(__name__)

DIFFERENT = 0.1
"""A difference is said where it is more than this share of what was predicted."""


class Expected(BaseModel):
    """A candidate of ``plan --json``, as far as it can be measured."""

    quantization: str
    context: PositiveInt
    weight_bytes: PositiveInt
    decode_s: Figure
    empty_s: float | None
    prefill_s: dict[int, Figure]

    def compare_build(self, quantization: str, weight_bytes: int) -> None:
        """Logs how a DIST's weights differ, and a warning for one that isn't what was planned."""
        self._same(quantization)
        _compare("weights", weight_bytes, Figure(self.weight_bytes, "counted"), megabytes)

    def compare_bench(self, results: Iterable[Mapping[str, Any]]) -> None:
        """Logs how times differ, at the prompts of the plan, and of decode at any context up to the plan's."""
        for result in results:
            self._same(result["quantization"])
            tokens, answer = result["prefill_tokens"], result["decode_tokens"]
            where = f"{result['model']} on {result['device']}, {tokens}+{answer} tokens"
            if tokens in self.prefill_s:
                _compare(f"time to the first token of {where}", result["ttft_s"], self.prefill_s[tokens], milliseconds)
            context, last, empty = tokens + answer / 2, self.decode_s, self.empty_s
            if result["decode_tok_s"] and last.value and empty and context <= self.context:
                seconds = empty + (last.value - empty) * context / self.context
                other = last.other and last.other * seconds / last.value
                predicted = Figure(seconds, last.how, other=other)
                _compare(f"a token of {where}", 1 / result["decode_tok_s"], predicted, milliseconds)

    def _same(self, quantization: str) -> None:
        if quantization != self.quantization:
            logger.warning(f"the plan is of {self.quantization}, and this is {quantization}")


class _Plan(BaseModel):
    recommended: Expected | None


def read_expected(path: Path) -> Expected:
    """What a plan recommends; an `EdgeTransactError` if the file isn't one, or recommends nothing."""
    fix = f"Write it: edge-transact plan MODEL --json > {path}"
    try:
        recommended = read_model(_Plan, path, fix, "what plan --json prints").recommended
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", fix=fix) from error
    if recommended is None:
        raise UsageError(f"{path} recommends no single model", fix="Plan for one model.")
    return recommended


def _compare(what: str, measured: float, predicted: Figure, written: Any) -> None:
    if predicted.value is None:
        return
    low, high = sorted([predicted.value, predicted.other or predicted.value])
    nearest = min(max(measured, low), high)
    planned = " to ".join(dict.fromkeys([written(low), written(high)]))
    said = f"{what}: {written(measured)}, and the plan said {planned}"
    if abs(measured - nearest) > DIFFERENT * nearest:
        logger.warning(f"{said}, a difference of {measured / nearest - 1:+.0%}")
    else:
        logger.info(said)
