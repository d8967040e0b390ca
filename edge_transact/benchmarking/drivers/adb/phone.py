"""What the two drivers of a phone share: its sensors, its fixed-performance mode, and that it stays awake."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_transact.benchmarking.drivers.adb import devices
from edge_transact.benchmarking.drivers.adb.client import AndroidDevice
from edge_transact.benchmarking.drivers.adb.sensors import read_sensors
from edge_transact.benchmarking.drivers.base import DeviceInfo
from edge_transact.benchmarking.model import BenchModel
from edge_transact.benchmarking.options import BenchOptions
from edge_transact.benchmarking.records.readings import Reading

logger = logging.getLogger(__name__)

GRACE_S = 10
"""Time that a run gets to end by itself after its own timeout."""

# A screen that is on keeps a phone from suspending, on battery too. The settings of before are kept in a file, so that
# a call that was killed, or lost the phone, doesn't take its own for these.
_STAY_AWAKE = """
kept=$1/awake
mkdir -p "$1" && if [ ! -s "$kept" ]; then
    timeout=$(settings get system screen_off_timeout) && plugged=$(settings get global stay_on_while_plugged_in) &&
    echo "$timeout $plugged" > "$kept"
fi &&
settings put system screen_off_timeout 2147483647 &&
settings put global stay_on_while_plugged_in 15 || exit 1
input keyevent KEYCODE_WAKEUP
wm dismiss-keyguard
exit 0
"""
_SLEEP_AGAIN = """
kept=$1/awake
[ -s "$kept" ] && read -r timeout plugged < "$kept" || exit 0
back() { if [ "$3" = null ]; then settings delete "$1" "$2"; else settings put "$1" "$2" "$3"; fi; }
back system screen_off_timeout "$timeout" && back global stay_on_while_plugged_in "$plugged" && rm "$kept"
"""


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

    def check(self, models: Sequence[BenchModel]) -> None:
        """Raise an `EdgeTransactError` for what cannot work, before anything is pushed."""
        needed_mib = 0 if self.conditions.ignore_memory else max(model.needed_mib for model in models)
        devices.check(self.info, self.target, needed_mib)

    def settle(self) -> None:
        """Enter Android 12's fixed-performance mode if there is one, and keep the phone awake: again after a reboot."""
        if self.fixed_performance is not False:
            self.fixed_performance = self._set_fixed_performance("true")
        if self.device.script(_STAY_AWAKE, devices.WORK_DIRECTORY).code:
            logger.info(f"{self.label} can't be kept awake from here: keep its screen on")

    def restore(self) -> None:
        """Undo what `settle` did."""
        if self.fixed_performance:
            self._set_fixed_performance("false")
        self.device.script(_SLEEP_AGAIN, devices.WORK_DIRECTORY)

    def _set_fixed_performance(self, value: str) -> bool:
        return self.device.shell("cmd", "power", "set-fixed-performance-mode-enabled", value).code == 0
