"""What the two ways of running on a phone share: the phone itself."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from edge_transact.bench.drivers.adb import AndroidDevice
from edge_transact.bench.drivers.devices import DeviceInfo
from edge_transact.bench.drivers.sensors import Reading, read_sensors
from edge_transact.bench.run import Conditions

GRACE_S = 10
"""How long after its own timeout a run that does not end by itself is ended."""


class PhoneBench:
    """A phone with its sensors and its fixed-performance mode.

    Args:
        device: The phone.
        info: What it said about itself.
        label: Its name in tables.
        target: ``android`` or ``android-cpu``.
        conditions: The plan's.
    """

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
        """The sensors."""
        return read_sensors(self.device)

    def wait(self, timeout_s: float, stop: threading.Event) -> bool:
        """Wait until a lost device is back; whether it is."""
        return self.device.wait(timeout_s, stop)

    def fix_performance(self) -> None:
        """Try Android 12's fixed-performance mode; whether the phone has it is recorded.

        A phone that has it is asked each time: it may have booted in the meantime.
        """
        if self.fixed_performance is not False:
            self.fixed_performance = self._set_fixed_performance("true")

    def restore_performance(self) -> None:
        """Leave the mode, where it was entered."""
        if self.fixed_performance:
            self._set_fixed_performance("false")

    def _set_fixed_performance(self, value: str) -> bool:
        return self.device.shell("cmd", "power", "set-fixed-performance-mode-enabled", value).code == 0


def id_lines(*rows: Sequence[int]) -> bytes:
    """Token ids, a line a row, as the runner reads them."""
    return "".join(" ".join(map(str, row)) + "\n" for row in rows).encode()
