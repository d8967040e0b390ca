"""Temperature, clocks and battery of a device, sampled beside a run. What a device doesn't tell is None."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_transact.bench.drivers.adb import AndroidDevice, CommandTimeout, DeviceLost

READ_SCRIPT = r"""
say() { value=; { read -r value < "$1"; } 2>/dev/null; [ -z "$value" ] || echo "$2$value"; }
heat=$(dumpsys thermalservice 2>/dev/null)
echo "$heat"
echo "== battery"
dumpsys battery 2>/dev/null
echo "== zones"
case $heat in
*Temperature{*) ;;
*)  for zone in /sys/class/thermal/thermal_zone*; do
        type=; { read -r type < "$zone/type"; } 2>/dev/null
        say "$zone/temp" "$type "
    done ;;
esac
echo "== clocks"
for file in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq; do say "$file"; done
echo "== gpu"
say /sys/class/kgsl/kgsl-3d0/gpuclk
say /sys/class/kgsl/kgsl-3d0/devfreq/cur_freq
exit 0
"""
# Shell built-ins read sysfs: a process for each of a phone's hundred files would heat what is measured.

_KINDS = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin"}
"""``android.os.Temperature`` types."""


@dataclass(frozen=True)
class Reading:
    """One look at a device's sensors.

    Attributes:
        at_s: When, on this computer's monotonic clock; the device's own clock plays no part.
        temp_c: The temperature that throttling goes by: the skin's, or the battery's where there is no skin sensor.
        cpu_c, gpu_c: The hottest sensor of each kind.
        thermal_status: Android's ``ThermalStatus``, 0 (none) to 6 (shutdown).
        cpu_mhz: The fastest core's clock.
        gpu_mhz: The GPU's clock.
        battery_percent, battery_v, charge_uah, on_battery: The battery's level, volts and charge counter, and whether
            nothing powers the phone.
    """

    at_s: float
    temp_c: float | None = None
    cpu_c: float | None = None
    gpu_c: float | None = None
    thermal_status: int | None = None
    cpu_mhz: float | None = None
    gpu_mhz: float | None = None
    battery_percent: int | None = None
    battery_v: float | None = None
    charge_uah: int | None = None
    on_battery: bool | None = None


def read_sensors(device: AndroidDevice) -> Reading:
    """Ask the device once."""
    text = device.script(READ_SCRIPT, timeout_s=15).stdout
    return parse_sensors(text, time.monotonic())


def parse_sensors(text: str, at_s: float) -> Reading:
    """A reading from the output of ``dumpsys`` and sysfs, whatever of it there is."""
    parts = re.split(r"^== (\w+)$", text, flags=re.MULTILINE)
    sections = {"thermal": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}
    battery = dict(re.findall(r"^\s*([\w ]+): (\S+)$", sections.get("battery", ""), re.MULTILINE))
    heat = _thermalservice(sections["thermal"]) or _zones(sections.get("zones", ""))
    powered = [battery[key] for key in battery if key.endswith(" powered")]
    battery_c = _scaled(battery.get("temperature"), 10)
    status = re.search(r"Thermal Status: (\d+)", sections["thermal"])
    clocks = [int(word) for word in sections.get("clocks", "").split() if word.isdigit()]
    gpu = [int(word) for word in sections.get("gpu", "").split() if word.isdigit()]
    return Reading(
        at_s=at_s,
        temp_c=heat.get("skin", heat.get("battery", battery_c)),
        cpu_c=heat.get("cpu"),
        gpu_c=heat.get("gpu"),
        thermal_status=int(status[1]) if status else None,
        cpu_mhz=max(clocks) / 1000 if clocks else None,
        gpu_mhz=gpu[0] / 1e6 if gpu else None,
        battery_percent=_integer(battery.get("level")),
        battery_v=_scaled(battery.get("voltage"), 1000),
        charge_uah=_integer(battery.get("Charge counter")) or None,
        on_battery="true" not in powered if powered else None,
    )


def _thermalservice(text: str) -> dict[str, float]:
    """The hottest value of each kind among the HAL's current temperatures; the cached ones may be hours old."""
    _, found, current = text.partition("Current temperatures from HAL")
    heat: dict[str, float] = {}
    for value, kind in re.findall(r"Temperature\{mValue=(-?[\d.]+), mType=(-?\d+)", current if found else text):
        name = _KINDS.get(int(kind))
        if name is not None and -30 < float(value) < 150:
            heat[name] = max(float(value), heat.get(name, -273.0))
    return heat


def _zones(text: str) -> dict[str, float]:
    """The hottest thermal zone of each kind, where the shell may read sysfs; values are in 1/1000 degrees."""
    heat: dict[str, float] = {}
    for name, value in re.findall(r"^(\S+) (-?\d+)$", text, re.MULTILINE):
        kind = next((kind for kind in ("skin", "battery", "cpu", "gpu") if kind in name.lower()), None)
        if kind is not None and -30_000 < int(value) < 150_000:
            heat[kind] = max(int(value) / 1000, heat.get(kind, -273.0))
    return heat


def _integer(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None


def _scaled(text: str | None, by: int) -> float | None:
    number = _integer(text)
    return None if number is None else number / by


class Sampler:
    """Readings every `interval_s` from a thread of its own, while the body of the ``with`` runs.

    A device that goes away ends the sampling quietly: the run itself finds out, and says so.
    """

    def __init__(self, read: Callable[[], Reading], interval_s: float = 2.0) -> None:
        self.readings: list[Reading] = []
        self._read = read
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(timeout=20)

    def latest(self) -> Reading | None:
        """The newest reading."""
        return self.readings[-1] if self.readings else None

    def _sample(self) -> None:
        while not self._stop.is_set():
            try:
                self.readings.append(self._read())
            except (DeviceLost, CommandTimeout):
                return
            self._stop.wait(self._interval_s)


def between(readings: Sequence[Reading], start_s: float, end_s: float) -> list[Reading]:
    """The readings of a span of time, with the last one before it, so that a short span has one too."""
    before = [reading for reading in readings if reading.at_s < start_s][-1:]
    return before + [reading for reading in readings if start_s <= reading.at_s <= end_s]
