"""What a bench keeps: each measured repetition with what is known about it, and the end of each visit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edge_transact.benchmarking.records.lines import Agreement, Loading, Measurement, Number
from edge_transact.benchmarking.records.plan import Lengths
from edge_transact.benchmarking.records.readings import Reading, ReadingSummary


@dataclass(frozen=True)
class Key:
    serial: str
    model_digest: str
    target: str
    lengths: Lengths
    round: int
    sustained_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class VisitContext:
    """What both kinds of records say about their visit.

    Attributes:
        decode_read_bytes: Bytes that a decoded token must read, as `BenchModel.decode_read_bytes` says.
        cpu: The clusters of a phone's cores.
        runner: What ran it on a phone: ``portable``, ``ndk``, ``app`` or ``llama.cpp``.
        fixed_performance: Whether Android's fixed-performance mode was on; None if it was not tried.
        session: The call of ``bench`` that measured it. Models took turns in a round of one session.
        sustained_s: How long a sustained visit was to take; None for any other.
    """

    model: str
    model_digest: str
    model_type: str
    parameters: int
    quantization: str
    decode_read_bytes: int
    build: dict[str, str]
    serial: str
    device: str
    soc: str | None = None
    android: str | None = None
    device_fingerprint: str | None = None
    cpu: str | None = None
    runner: str | None = None
    bandwidth_gb_s: float | None = None
    fixed_performance: bool | None = None
    target: str
    prefill_tokens: int
    decode_tokens: int
    warmups: int
    round: int
    time: str
    session: str | None = None
    batch_size: int = 1
    sustained_s: Number = None

    @property
    def lengths(self) -> Lengths:
        return Lengths(self.prefill_tokens, self.decode_tokens, self.batch_size)

    @property
    def key(self) -> Key:
        return Key(self.serial, self.model_digest, self.target, self.lengths, self.round, self.sustained_s)


# Fields of dataclasses follow the bases from the last to the first.
@dataclass(frozen=True, kw_only=True)
class RepetitionRecord(ReadingSummary, Agreement, Loading, Measurement, VisitContext):
    """One measured repetition. `ended_s` is when it ended, on the clock of the readings."""

    # Without `field`, the base's default would be this one's.
    weights_mib: float = field()
    ended_s: Number = None
    kind: Literal["repetition"] = "repetition"


@dataclass(frozen=True, kw_only=True)
class VisitRecord(VisitContext):
    """The end of a visit: why it failed, or None, and the sensor readings taken during it."""

    error: str | None
    trace: tuple[Reading, ...]
    kind: Literal["visit"] = "visit"


Record = RepetitionRecord | VisitRecord


def labels(devices: Mapping[str, str]) -> dict[str, str]:
    """A label for each device by serial: its name, and also the serial if several devices share the name."""
    names = Counter(devices.values())
    return {serial: name if names[name] == 1 else f"{name} ({serial})" for serial, name in devices.items()}
