"""What the two drivers of a phone share: its sensors, and its fixed-performance mode."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from edge_transact.benchmarking.drivers.adb.client import AndroidDevice
from edge_transact.benchmarking.drivers.adb.sensors import read_sensors
from edge_transact.benchmarking.drivers.base import DeviceInfo
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.benchmarking.records.readings import Reading

GRACE_S = 10
"""Time that a run gets to end by itself after its own timeout."""


@dataclass
class PhoneDriver:
    device: AndroidDevice
    info: DeviceInfo
    label: str
    target: str
    conditions: BenchOptions
    runner_kind: str | None = field(default=None, init=False)
    fixed_performance: bool | None = field(default=None, init=False)

    def read(self) -> Reading:
        return read_sensors(self.device)

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        return self.device.wait(timeout_s, stop)

    def fix_performance(self) -> None:
        """Try to enter Android 12's fixed-performance mode, each time, because the phone may have rebooted."""
        if self.fixed_performance is not False:
            self.fixed_performance = self._set_fixed_performance("true")

    def restore_performance(self) -> None:
        if self.fixed_performance:
            self._set_fixed_performance("false")

    def _set_fixed_performance(self, value: str) -> bool:
        return self.device.shell("cmd", "power", "set-fixed-performance-mode-enabled", value).code == 0
