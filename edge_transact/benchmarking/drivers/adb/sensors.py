"""A phone's sensors: temperatures, clocks and battery, from Android's services and from sysfs."""

from __future__ import annotations

import re
import time

from edge_transact.benchmarking.drivers.adb.client import AndroidDevice
from edge_transact.benchmarking.records.readings import Reading, hottest_of

# Shell built-ins read sysfs. One process for each of a phone's hundred files would heat the phone that is measured.
READ_SCRIPT = r"""
say() { value=; { read -r value < "$1"; } 2>/dev/null; [ -z "$value" ] || echo "$2$value"; }
heat=$(dumpsys thermalservice 2>/dev/null)
echo "$heat"
echo "== battery"
dumpsys battery 2>/dev/null
echo "== screen"
dumpsys deviceidle get screen 2>/dev/null
echo "== current"
say /sys/class/power_supply/battery/current_now
[ -n "$value" ] || cmd battery get current_now 2>/dev/null
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
mali=/sys/class/misc/mali0/device
for file in /sys/class/kgsl/kgsl-3d0/gpuclk /sys/class/kgsl/kgsl-3d0/devfreq/cur_freq $mali/cur_freq $mali/clock \
    $mali/devfreq/*/cur_freq /sys/class/devfreq/*mali*/cur_freq /sys/class/devfreq/*gpu*/cur_freq \
    /sys/kernel/gpu/gpu_clock
do say "$file"; done
exit 0
"""

_TYPES = {0: "cpu", 1: "gpu", 2: "battery", 3: "skin"}
"""``android.os.Temperature`` types."""


def read_sensors(device: AndroidDevice) -> Reading:
    text = device.script(READ_SCRIPT, timeout_s=15).stdout
    return parse_sensors(text, time.monotonic())


def parse_sensors(text: str, at_s: float) -> Reading:
    """Parse the output of `READ_SCRIPT`, any part of which may be missing."""
    parts = re.split(r"^== (\w+)$", text, flags=re.MULTILINE)
    sections = {"thermal": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}
    battery: dict[str, str] = dict(re.findall(r"^\s*([\w ]+): (\S+)$", sections.get("battery", ""), re.MULTILINE))
    hottest = _thermal_service(sections["thermal"]) or _thermal_zones(sections.get("zones", ""))
    powered = [battery[key] for key in battery if key.endswith(" powered")]
    battery_c = _scaled(battery.get("temperature"), 10)
    status = re.search(r"Thermal Status: (\d+)", sections["thermal"])
    clocks = [int(word) for word in sections.get("clocks", "").split() if word.isdigit()]
    gpu = re.findall(r"^\d+", sections.get("gpu", ""), re.MULTILINE)
    screen = sections.get("screen", "").strip()
    temp_source = next((kind for kind in ("skin", "battery") if kind in hottest), "battery" if battery_c else None)
    return Reading(
        at_s=at_s,
        temp_c=hottest.get(temp_source, battery_c) if temp_source else None,
        temp_source=temp_source,
        cpu_c=hottest.get("cpu"),
        gpu_c=hottest.get("gpu"),
        thermal_status=int(status[1]) if status else None,
        cpu_mhz=max(clocks) / 1000 if clocks else None,
        gpu_mhz=_mhz(int(gpu[0])) if gpu else None,
        battery_percent=integer(battery.get("level")),
        battery_v=_scaled(battery.get("voltage"), 1000),
        charge_uah=integer(battery.get("Charge counter")) or None,
        current_now=integer(sections.get("current", "").strip() or battery.get("current now")),
        on_battery="true" not in powered if powered else None,
        screen_on={"true": True, "false": False}.get(screen),
    )


def _mhz(clock: int) -> float:
    """A GPU's clock. Adreno's and devfreq's are in Hz, those of Mali on Pixels in kHz, on Galaxys in MHz."""
    return clock / (1e6 if clock >= 1e7 else 1e3 if clock >= 1e4 else 1)


def _thermal_service(text: str) -> dict[str, float]:
    """The hottest sensor of each type among the HAL's current temperatures; the cached ones may be hours old."""
    _, found, current = text.partition("Current temperatures from HAL")
    values = re.findall(r"Temperature\{mValue=(-?[\d.]+), mType=(-?\d+)", current if found else text)
    return hottest_of((_TYPES.get(int(number), ""), float(value)) for value, number in values)


def _thermal_zones(text: str) -> dict[str, float]:
    """The hottest thermal zone of each type, if the shell may read sysfs; values are in 1/1000 C."""
    zones = re.findall(r"^(\S+) (-?\d+)$", text, re.MULTILINE)
    return hottest_of((zone, int(value) / 1000) for zone, value in zones)


def integer(text: str | None) -> int | None:
    """A whole number; None if the text is anything else."""
    return int(text) if text and re.fullmatch(r"-?\d+", text) else None


def _scaled(text: str | None, by: int) -> float | None:
    number = integer(text)
    return None if number is None else number / by
