"""The JSON that asks for a run, and the lines that it prints, read defensively: a device may print anything.

The runner in ``android_bench/``, the app's benchmark activity and `drivers.host_runner` write them: JSON objects with
``kind``, the name of the ``run``, and the fields of a class, which may not be all. A repetition that makes no sense is
a `MalformedLine`; any other such field is None: the C++ runner writes -1 or null for what it could not find out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import (
    BeforeValidator,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from edge_transact.benchmarking.records.plan import Lengths


def integer_of(text: str) -> int:
    """An integer in JSON that 64 bits hold; a `ValueError` for others, of which no float can be made."""
    if not -(2**63) <= (value := int(text)) < 2**63:
        raise ValueError(f"{text[:20]}... is no integer of 64 bits")
    return value


def _or_none(value: object, check: ValidatorFunctionWrapHandler) -> object:
    try:
        return check(value)
    except ValidationError:
        return None


Count = Annotated[int, Strict()]
Seconds = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]

Number = Annotated[Seconds | None, WrapValidator(_or_none)]
"""A finite number of at least 0, or None."""

Positive = Annotated[Annotated[Seconds, Field(gt=0)] | None, WrapValidator(_or_none)]
"""A finite number above 0, or None."""

Integer = Annotated[Count | None, WrapValidator(_or_none)]

Text = Annotated[Annotated[str, Strict()] | None, WrapValidator(_or_none)]


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A model at one pair of lengths. Every line repeats `run`; `check` are prompt and tokens of the parity record."""

    run: str
    prompt: list[int]
    decode_tokens: int
    repetitions: int
    warmups: int
    check: tuple[list[int], list[int]] | None


@dataclass(frozen=True, kw_only=True)
class HostRequest(RunRequest):
    """A run of a DIST on this host. `threads` is None for one for each big core."""

    dist: str
    batch_size: int
    threads: int | None = None


@dataclass(frozen=True, kw_only=True)
class AppRequest(RunRequest):
    """A run in an app, of one of the libraries in its ``mlc-package-config.json``."""

    model_lib: str
    timeout_s: float


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured repetition, in seconds on the device's steady clock.

    Attributes:
        index: 0, 1, ... within its run.
        prefill_s: The prompt, in chunks, and the choice of the first token.
        decode_s: All tokens after the first.
        decode_steps_s: Each token after the first; None if the device can't tell them apart.
        tokens: Generated token ids; None if the device tells only their text.
    """

    index: Count
    ttft_s: Seconds
    prefill_s: Seconds
    decode_s: Seconds
    decode_steps_s: tuple[Seconds, ...] | None
    e2e_s: Seconds
    tokens: tuple[Count, ...] | None
    text: Text = None
    peak_rss_mib: Positive = None


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a model was loaded: library, weights and KV cache in `load_s`, kernels in `kernel_build_s`."""

    load_s: Number = None
    kernel_build_s: Number = None
    kernels_restored: Annotated[bool, BeforeValidator(bool)] = False
    threads: Integer = None
    kv_mib: Positive = None
    weights_mib: Positive = None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The greedy tokens of the build's parity record, and how many were generated before the first that differs."""

    tokens_checked: Integer = None
    tokens_agreed: Integer = None


@dataclass(frozen=True, kw_only=True)
class StartLine:
    run: str
    kind: Literal["start"] = "start"


@dataclass(frozen=True, kw_only=True)
class LoadLine(Loading):
    run: str
    kind: Literal["load"] = "load"


@dataclass(frozen=True, kw_only=True)
class CheckLine(Agreement):
    """The parity record was checked. An app, which can't count tokens, tells their text."""

    run: str
    kind: Literal["check"] = "check"
    text: Text = None


@dataclass(frozen=True, kw_only=True)
class WarmupLine:
    """A repetition that doesn't count has ended."""

    run: str
    kind: Literal["warmup"] = "warmup"


@dataclass(frozen=True, kw_only=True)
class RepetitionLine(Measurement):
    """A measured repetition has ended. `decode_tokens` is None if `tokens` says it."""

    run: str
    kind: Literal["repetition"] = "repetition"
    prefill_tokens: Count
    decode_tokens: Count | None = None

    def has(self, lengths: Lengths) -> bool:
        decode_tokens = self.decode_tokens if self.tokens is None else len(self.tokens)
        steps = lengths.decode_tokens - 1 if self.decode_steps_s is None else len(self.decode_steps_s)
        wanted = lengths.prefill_tokens, lengths.decode_tokens, lengths.decode_tokens - 1
        return (self.prefill_tokens, decode_tokens, steps) == wanted


@dataclass(frozen=True, kw_only=True)
class FinalLine:
    run: str
    kind: Literal["final"] = "final"


@dataclass(frozen=True, kw_only=True)
class ErrorLine:
    run: str
    kind: Literal["error"] = "error"
    message: Annotated[str, BeforeValidator(str)] = "None"


@dataclass(frozen=True)
class MalformedLine:
    """A line of the run that makes no sense."""

    text: str


WellFormedLine = StartLine | LoadLine | CheckLine | WarmupLine | RepetitionLine | FinalLine | ErrorLine
Line = WellFormedLine | MalformedLine

_ADAPTER: TypeAdapter[WellFormedLine] = TypeAdapter(Annotated[WellFormedLine, Field(discriminator="kind")])
_KINDS = tuple(line.kind for line in get_args(WellFormedLine))


def parse_line(text: str, run: str) -> Line | None:
    """Parse one line of output; None unless it is a complete line of this run."""
    try:
        # Not pydantic's own parser, which refuses lone surrogates.
        value = json.loads(text, parse_int=integer_of)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("run") != run or value.get("kind") not in _KINDS:
        return None
    try:
        return _ADAPTER.validate_python(value)
    except ValidationError:
        return MalformedLine(text)
