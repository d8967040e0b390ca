"""What every driver provides, and how it fails. Imports nothing of adb."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from edge_transact.bench.model import BenchModel
from edge_transact.bench.records.lines import Line
from edge_transact.bench.records.plan import Visit
from edge_transact.bench.records.readings import Reading
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


@dataclass(frozen=True)
class DeviceInfo:
    """What a device reports about itself; None for what it doesn't report.

    Attributes:
        serial: What adb calls it, or ``host``.
        name: Manufacturer and model, or ``host``.
        sdk: Android's API level.
        fingerprint: Build of the operating system.
        opencl: Path of its OpenCL library.
        wireless: Whether adb reaches it over the network.
    """

    serial: str
    name: str
    soc: str | None
    abis: tuple[str, ...]
    android: str | None
    sdk: int | None
    fingerprint: str | None
    cores: int | None
    memory_mib: float | None
    available_mib: float | None
    storage_mib: float | None
    opencl: str | None
    battery_percent: int | None
    on_battery: bool | None
    wireless: bool

    @property
    def bandwidth_gb_s(self) -> float | None:
        """Peak DRAM bandwidth of the chip, if it is known."""
        return BANDWIDTH_GB_S.get(self.soc or "")


class Driver(Protocol):
    """A device that can run visits. `label` tells it from the other devices of the plan."""

    info: DeviceInfo
    target: str
    label: str
    fixed_performance: bool | None

    def prepare(self, models: Sequence[BenchModel], stop: threading.Event) -> bool:
        """Bring models and runner onto the device, or repair damaged files, and end a lost run; returns whether it sent
        any.
        """

    def lines(self, model: BenchModel, visit: Visit, stop: threading.Event) -> Generator[Line, None, None]:
        """Run a visit and yield its lines as they come. Closing the iterator ends the run on the device.

        Raises:
            RunFailed: The run ended without its final line.
            CommandTimeout: The run took longer than its timeout.
            DeviceLost: The device stopped answering.
        """

    def recover(self) -> list[Line]:
        """Lines that a run wrote after the connection to it was lost. The run is ended."""

    def read(self) -> Reading:
        """Read the sensors."""

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        """Wait for a lost device; returns whether it is back."""

    def close(self) -> None:
        """Leave nothing running and no settings changed."""
