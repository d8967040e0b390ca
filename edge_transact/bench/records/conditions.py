"""The conditions of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from edge_transact.bench.records.plan import Lengths


@dataclass(frozen=True)
class Conditions:
    """What to measure, and under which conditions.

    Attributes:
        lengths: Pairs of prompt and answer lengths.
        repetitions: Measured repetitions of each model at each pair of lengths.
        warmups: Full repetitions at the start of each visit that don't count.
        threads: CPU threads; 0 leaves the choice to the runtime.
        cores: CPU cores to run on, such as ``4-7``; empty leaves the choice to the system.
        timeout_s: The longest that one visit may take.
        cool_c: A visit starts at this temperature or below.
        ceiling_c: Above this temperature a visit is interrupted until the device has cooled.
        cool_timeout_s: The longest wait for a device to cool.
        reconnect_s: The longest wait for a lost device.
        sample_s: Seconds between sensor readings.
    """

    lengths: tuple[Lengths, ...]
    repetitions: int = 5
    warmups: int = 1
    threads: int = 0
    cores: str = ""
    timeout_s: float = 1800
    cool_c: float = 37
    ceiling_c: float = 46
    cool_timeout_s: float = 900
    reconnect_s: float = 120
    sample_s: float = 2
