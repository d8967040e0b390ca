"""What every driver provides, and how it fails. Imports nothing of adb."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from edge_transact import cache
from edge_transact.benchmarking.model import BenchModel
from edge_transact.benchmarking.records.lines import Line
from edge_transact.benchmarking.records.plan import Visit
from edge_transact.benchmarking.records.readings import Reading
from edge_transact.errors import EdgeTransactError

BANDWIDTH_GB_S = {"SM8550": 67.2, "SM8650": 76.8, "SM8750": 84.8}
"""Peak DRAM bandwidth by ``ro.soc.model``: Snapdragon 8 Gen 2, 8 Gen 3 and 8 Elite with 64-bit LPDDR5X."""


class DeviceLost(EdgeTransactError):
    """The device, or the adb server, stopped answering. It may come back."""


class CommandTimeout(EdgeTransactError):
    """A command took longer than its timeout."""


class DeviceRefused(EdgeTransactError):
    """The device answered with an error of its own."""


class RunFailed(EdgeTransactError):
    """A run ended without its final line: it crashed, was killed, or reported an error."""


def ranges(cores: Sequence[int]) -> str:
    """Core numbers as ``--cores`` takes them: ``0,4-7``."""
    groups = groupby(enumerate(sorted(cores)), lambda each: each[1] - each[0])
    runs = [[core for _, core in group] for _, group in groups]
    return ",".join(f"{run[0]}-{run[-1]}" if run[1:] else str(run[0]) for run in runs)


@dataclass(frozen=True)
class Cluster:
    """Cores that are alike. `speed` is relative to the fastest cluster's, as far as Linux says it."""

    name: str
    cores: tuple[int, ...]
    max_mhz: float | None
    speed: float

    def __str__(self) -> str:
        clock = "" if self.max_mhz is None else f", {self.max_mhz:,.0f} MHz"
        return f"{self.name} {ranges(self.cores)}{clock}"


@dataclass(frozen=True)
class DeviceInfo:
    """What a device reports about itself; None for what it doesn't report.

    Attributes:
        name: Manufacturer and model, or ``host``.
        fingerprint: Build of the operating system.
        opencl: Path of its OpenCL library.
        clusters: Of its CPU, the fastest first.
    """

    serial: str
    name: str
    abis: tuple[str, ...]
    soc: str | None = None
    android: str | None = None
    sdk: int | None = None
    fingerprint: str | None = None
    memory_mib: float | None = None
    available_mib: float | None = None
    opencl: str | None = None
    battery_percent: int | None = None
    on_battery: bool | None = None
    clusters: tuple[Cluster, ...] = ()

    @property
    def bandwidth_gb_s(self) -> float | None:
        """Peak DRAM bandwidth of the chip, if it is known."""
        return BANDWIDTH_GB_S.get(self.soc or "")


class Driver(Protocol):
    """A device that can run visits. `label` tells it from the other devices of the plan."""

    info: DeviceInfo
    target: str
    label: str
    runner_kind: str | None
    fixed_performance: bool | None

    def prepare(self, models: Sequence[BenchModel], stop: threading.Event) -> bool:
        """Bring models and runner onto the device, or repair them, and end a lost run; returns whether it sent any."""

    def lines(self, model: BenchModel, visit: Visit, stop: threading.Event) -> Generator[Line, None, None]:
        """Run a visit and yield its lines as they come. Closing the iterator ends the run on the device.

        Raises `RunFailed`, `CommandTimeout` and `DeviceLost`.
        """

    def recover(self) -> list[Line]:
        """Lines that a run wrote after the connection to it was lost. The run is ended."""

    def read(self) -> Reading:
        """Read the sensors."""

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        """Wait for a lost device; returns whether it is back."""

    def close(self) -> None:
        """Leave nothing running and no settings changed."""


@contextmanager
def sampled(read: Callable[[], Reading], interval_s: float) -> Iterator[list[Reading]]:
    """The readings that a thread of its own takes every `interval_s` while the body of the ``with`` statement runs.

    Sampling ends silently if the device goes away, because the run itself finds that out and reports it.
    """
    readings: list[Reading] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.is_set():
            try:
                readings.append(read())
            except DeviceLost:
                return
            except CommandTimeout:
                pass
            stop.wait(interval_s)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield readings
    finally:
        stop.set()
        thread.join(timeout=20)


def phone_lock(serial: str, what: str) -> AbstractContextManager[None]:
    """Lets one process at a time measure on a phone or send models to it; the others wait."""
    return cache.lock(cache.entry_of("phones", {"serial": serial}), what)
