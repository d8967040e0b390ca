"""What the two drivers of a phone share: its sensors, and its fixed-performance mode."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from edge_transact.bench.drivers.adb.client import AndroidDevice
from edge_transact.bench.drivers.adb.sensors import read_sensors
from edge_transact.bench.drivers.base import DeviceInfo
from edge_transact.bench.records.conditions import Conditions
from edge_transact.bench.records.readings import Reading

GRACE_S = 10
"""Time that a run gets to end by itself after its own timeout."""


class PhoneDriver:
    """Base of the drivers that run on a phone."""

    def __init__(
        self, device: AndroidDevice, info: DeviceInfo, label: str, target: str, conditions: Conditions
    ) -> None:
        self.device = device
        self.info = info
        self.label = label
        self.target = target
        self.conditions = conditions
        self.fixed_performance: bool | None = None

    def read(self) -> Reading:
        """Read the sensors."""
        return read_sensors(self.device)

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        """Wait for a lost device; returns whether it is back."""
        return self.device.wait(timeout_s, stop)

    def fix_performance(self) -> None:
        """Try to enter Android 12's fixed-performance mode, each time, because the phone may have rebooted."""
        if self.fixed_performance is not False:
            self.fixed_performance = self._set_fixed_performance("true")

    def restore_performance(self) -> None:
        """Leave the mode if it was entered."""
        if self.fixed_performance:
            self._set_fixed_performance("false")

    def _set_fixed_performance(self, value: str) -> bool:
        return self.device.shell("cmd", "power", "set-fixed-performance-mode-enabled", value).code == 0


def id_lines(*rows: Sequence[int]) -> bytes:
    """Token ids in the format that the runner reads: one line for each row."""
    return "".join(" ".join(map(str, row)) + "\n" for row in rows).encode()
